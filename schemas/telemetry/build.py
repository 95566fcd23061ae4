"""Which release runs here."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version


def release() -> str:
    """Daybook's version, or `unknown` where it was not installed as a package."""
    try:
        return version("daybook")
    except PackageNotFoundError:
        return "unknown"
