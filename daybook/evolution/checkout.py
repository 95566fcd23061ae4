"""The source checkout, in which alone schemas are added."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import schemas
from daybook.errors import DaybookError


class NoCheckout(DaybookError):
    """Schemas are added where their sources are, and this is an installed package."""


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with Daybook's sources."""

    root: Path

    @property
    def schemas(self) -> Path:
        return self.root / "schemas" / "account"

    @property
    def golden(self) -> Path:
        return self.root / "tests" / "golden"


def here() -> Checkout | None:
    """The checkout that this program runs from; None if it was installed."""
    root = Path(schemas.__file__).parents[1]
    found = Checkout(root)
    return found if (root / "pyproject.toml").is_file() and found.golden.is_dir() else None


def must_be_here() -> Checkout:
    """Raises: `NoCheckout`."""
    found = here()
    if found is None:
        raise NoCheckout(
            f"{Path(schemas.__file__).parent} is an installed package: a version is added in a checkout of Daybook's "
            "sources, where `make setup` has made .venv and `.venv/bin/daybook schemas` is run"
        )
    return found
