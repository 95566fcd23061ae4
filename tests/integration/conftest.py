"""The servers that let nobody do more than he may, for the tests of who may what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.secured import Secured, daybook, running


@pytest.fixture(scope="session")
def secured(controls_servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """All servers with their users and rights, and a ledger deployed by the administrator."""
    with running(tmp_path_factory.mktemp("secured") / "servers") as run:
        secured = run.secured
        run.start("kafka", "redis", "elasticsearch")
        administrator = secured.environment("admin", DAYBOOK_DEPLOY_PASSWORDS=str(secured.passwords_file()))
        daybook("deploy", "access", env=administrator)
        run.start("registry")
        daybook("deploy", "apply", "--partitions", "2", env=administrator)
        yield secured
