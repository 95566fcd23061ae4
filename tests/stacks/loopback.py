"""How containers are reached from this machine: on its loopback alone, at ports that the engine chooses."""

from __future__ import annotations

import os

from testcontainers.core.config import ConnectionMode, testcontainers_config
from testcontainers.core.container import DockerContainer

HOST = "127.0.0.1"
# The client's own 60 s is less than a busy machine's engine may need to start a container.
ENGINE = {"timeout": 300}
# Each server says how long it takes on two idle cores; a machine that does much else takes ten times that and more.
START_TIMEOUT_S = 300

# By number: to a client, `localhost` may first mean an IPv6 address on which nobody listens. And at the published port
# even where this runs in a container itself, beside its engine.
testcontainers_config.connection_mode_override = ConnectionMode.docker_host
testcontainers_config.tc_host_override = HOST
# Ryuk, which removes what a killed run left, is one image more to have; who wants it sets the variable to false.
if "TESTCONTAINERS_RYUK_DISABLED" not in os.environ:
    testcontainers_config.ryuk_disabled = True


def publish(container: DockerContainer, *ports: int) -> None:
    """Publish these ports of a container that is not yet started."""
    # The container's own method publishes on all interfaces.
    container.ports = {str(port): (HOST, None) for port in ports}


def address(container: DockerContainer, port: int) -> str:
    """`HOST:PORT` of a published port."""
    return f"{HOST}:{container.get_exposed_port(port)}"
