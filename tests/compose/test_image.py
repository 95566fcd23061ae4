"""Our two images: small, without tools that build, and of use to nobody but the one user they have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.compose.composed import Composed, docker
from tests.compose.conftest import python_image

MB = 1_000_000

# The image, and by how much it may exceed the Python image that it is built on.
SIZES = (("service", 150), ("analytics", 450))
IMAGES = tuple(name for name, _ in SIZES)


def described(image: str) -> Any:
    return json.loads(docker("image", "inspect", image))[0]


def run(stack: Composed, image: str, *command: str) -> str:
    """Run a command in a container of the image that can write nowhere and reach nothing."""
    hardened = ("--rm", "--read-only", "--network", "none", "--cap-drop", "ALL")
    return docker("run", *hardened, "--tmpfs", "/tmp", stack.image(image), *command)  # noqa: S108


@pytest.mark.parametrize(("image", "most_mb"), SIZES)
def test_it_adds_little_to_its_base(stack: Composed, image: str, most_mb: int) -> None:
    added = described(stack.image(image))["Size"] - described(python_image())["Size"]
    print(f"{image}: {added / MB:.0f} MB over {python_image()}")
    assert 0 < added <= most_mb * MB


@pytest.mark.parametrize("image", IMAGES)
def test_it_has_nothing_to_build_with(stack: Composed, image: str) -> None:
    tools = "gcc cc g++ c++ clang make cmake ld as go rustc cargo git"
    assert run(stack, image, "sh", "-c", f"for tool in {tools}; do command -v $tool; done; true") == ""
    assert run(stack, image, "sh", "-c", "ls /opt/daybook/bin | grep -E '^(pip|uv|wheel)' || true") == ""
    look = "import importlib.util as u; print([n for n in ('pip', 'setuptools', 'uv', 'pytest') if u.find_spec(n)])"
    assert run(stack, image, "/opt/daybook/bin/python", "-c", look).strip() == "[]"


@pytest.mark.parametrize("image", IMAGES)
def test_it_runs_as_nobody_in_particular_on_a_read_only_root(stack: Composed, image: str) -> None:
    config = described(stack.image(image))["Config"]
    assert config["User"] == "10001:10001"
    assert not [one for one in config["Env"] if "PASSWORD" in one or "TOKEN" in one or "SECRET" in one]
    assert run(stack, image, "id", "-u").strip() == "10001"
    assert (
        run(stack, image, "sh", "-c", "touch /opt/daybook/new /var/lib/daybook/new 2>&1 || true").count("Read-only")
        == 2
    )
    assert "Usage" in run(stack, image, "daybook", "--help")


def test_each_has_what_its_services_need(stack: Composed) -> None:
    for image, modules in {
        "service": ("command_service.__main__", "projectors.balances", "projectors.search", "deploy.cli"),
        "analytics": ("projectors.analytics", "projectors.activity", "daybook.cli.app", "duckdb"),
    }.items():
        # Imported rather than looked for, since a library that was cut down must still load.
        run(stack, image, "python", "-c", f"import {', '.join(modules)}")


@pytest.mark.parametrize("image", IMAGES)
def test_a_service_that_is_told_nothing_says_what_it_lacks(stack: Composed, image: str) -> None:
    with pytest.raises(AssertionError) as ended:
        run(stack, image, "daybook-command-service")
    assert "exit code 2" in str(ended.value)
    # As JSON, which is how everything in the image logs.
    line = json.loads(str(ended.value).splitlines()[-1])
    assert "DAYBOOK_KAFKA_BOOTSTRAP" in line["event"]
