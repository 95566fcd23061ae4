"""Whether the compose stack can be started here, and the stack itself."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import pytest

from tests.compose.composed import DOCKER, ROOT, Composed, NotUp, remove_images
from tests.stacks.images import images

_BASE = "the base"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may have to start the stack first, which takes minutes where others keep the machine busy."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.compose)
            item.add_marker(pytest.mark.timeout(1800))


def _answers(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=120, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@cache
def _has_image(image: str) -> bool:
    if _answers(DOCKER, "image", "inspect", image):
        return True
    return os.environ.get("DAYBOOK_TEST_PULL") == "1" and (
        subprocess.run([DOCKER, "pull", "--quiet", image], capture_output=True, timeout=900, check=False).returncode
        == 0
    )


@pytest.fixture(scope="session")
def need_image() -> Callable[[str], None]:
    """Skips a test whose image is not here. Pulling takes minutes: DAYBOOK_TEST_PULL=1 says that it may."""

    def need(image: str) -> None:
        if not _has_image(image):
            pytest.skip(f"there is no image {image} here: pull it, or set DAYBOOK_TEST_PULL=1")

    return need


@pytest.fixture(scope="session")
def engine(need_image: Callable[[str], None]) -> None:
    """A Docker engine, Compose, and the images that the stack is made from."""
    if not _answers(DOCKER, "info"):
        pytest.skip("no Docker engine answers: the compose stack is not tested")
    if not _answers(DOCKER, "compose", "version"):
        pytest.skip("`docker compose` is missing: the compose stack is not tested")
    for image in (*images().values(), python_image()):
        need_image(image)


def python_image() -> str:
    """The image that ours are built on."""
    found = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "deploy/image/Dockerfile").read_text(), re.MULTILINE)
    assert found is not None, "deploy/image/Dockerfile names no PYTHON_IMAGE"
    return found[1]


class Stacks:
    """Starts stacks, each from nothing, and keeps one of them up at most: two would need 16 GB.

    Their images are the same, and built once.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._version = f"daybooktest{uuid.uuid4().hex[:8]}"
        self._built = False
        self._up: tuple[str, Composed] | None = None

    def up(self, name: str, files: tuple[str, ...] = ("docker-compose.yml",), **variables: str) -> Composed:
        """The stack of that name, which stays until another is wanted."""
        if self._up is not None and self._up[0] == name:
            return self._up[1]
        self.down()
        project = f"daybooktest{uuid.uuid4().hex[:8]}"
        stack = Composed(self._root / project, project, files, version=self._version, **variables)
        stack.make_folder()
        self._up = (name, stack)
        try:
            if not self._built:
                # Compiled apart, so that the time of a start is that of a start.
                stack.run("build", timeout_s=900)
            stack.started_in_s = stack.up(*([] if self._built else ["--build"]))
            self._built = True
        except BaseException as error:
            if not isinstance(error, NotUp):
                print(stack.described())
            self.down()
            raise
        print(f"{name}: up after {stack.started_in_s:.0f} s")
        return stack

    def down(self) -> None:
        if self._up is not None:
            stack, self._up = self._up[1], None
            stack.remove()

    def close(self) -> None:
        """Remove all that was made."""
        self.down()
        remove_images(self._version)


@pytest.fixture(scope="package")
def stacks(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stacks]:
    """Not for the whole session: a stack that idles takes some of the machine from the tests that follow."""
    stacks = Stacks(tmp_path_factory.mktemp("compose"))
    try:
        yield stacks
    finally:
        stacks.close()


@pytest.fixture
def stack(stacks: Stacks, request: pytest.FixtureRequest) -> Iterator[Composed]:
    """The stack as `docker compose up` makes it, whole and healthy. Tests share it, and use accounts of their own."""
    stack = stacks.up(_BASE)
    yield stack
    failed = request.node.stash.get(FAILED, False)
    if failed:
        print(stack.described())
        # What a test left half done should not fail the next one.
        with suppress(NotUp):
            stack.up("--scale", "command-service=1", "--scale", "projector-search=1")


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.when == "call" and report.failed:
        item.stash[FAILED] = True
    return report
