"""Which images the containers are made from: those of `docker-compose.yml`, so that versions stand in one place."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

COMPOSE_FILE = Path(__file__).parents[2] / "docker-compose.yml"
SERVERS = ("kafka", "registry", "elasticsearch", "redis")

_SECTION = re.compile(r"^(\S[^:]*):\s*(#.*)?$")
_SERVICE = re.compile(r"^ {2}([\w.-]+):\s*(&\S+)?\s*(#.*)?$")
_IMAGE = re.compile(r"^ {4}image:\s*[\"']?([^\s\"'#]+)")
_VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


class NoImage(Exception):
    """The compose file does not say which image a server is made from."""


def images() -> dict[str, str]:
    """The image of each of our four servers. Raises `NoImage`."""
    return images_of(COMPOSE_FILE.read_text())


def images_of(compose: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The images in a compose file's text, with `${NAME:-default}` filled in as Compose does.

    Raises:
        NoImage: naming the server.
    """
    found: dict[str, str] = {}
    section = service = ""
    for line in compose.splitlines():
        if begins := _SECTION.match(line):
            section, service = begins[1], ""
        elif begins := _SERVICE.match(line):
            service = begins[1]
        elif section == "services" and (image := _IMAGE.match(line)):
            found[service] = _VARIABLE.sub(lambda named: environment.get(named[1]) or named[2], image[1])
    for server in SERVERS:
        if server not in found or "$" in found[server]:
            raise NoImage(
                f"{COMPOSE_FILE.name}: the service {server} needs a line `image: NAME:TAG`, indented by four blanks, "
                "in which variables have defaults (`${NAME:-default}`)"
            )
    return {server: found[server] for server in SERVERS}
