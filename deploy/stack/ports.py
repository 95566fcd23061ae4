"""Choosing the ports of a stack."""

import random
import socket
from collections.abc import Iterable, Mapping

import psutil

from deploy.stack.errors import PortTakenError
from deploy.stack.probes import HOST
from deploy.stack.server import Port

# Below the range from which the system takes ports for outgoing connections, so that none is lost to one.
FREE_RANGE = range(20000, 32000)
# Every second port being taken, the chance to miss this often is nil.
ATTEMPTS = 200


def choose(
    wanted: Iterable[Port],
    asked: Mapping[str, int],
    before: Mapping[str, int],
    *,
    free_ports: bool,
) -> dict[str, int]:
    """Return a port for each that is wanted.

    `asked` maps options to their values and wins over `before`, the ports of the last start, which win
    over the defaults. A taken one is an error, or is replaced if `free_ports`; with it, ports that were
    never chosen are taken at random, since two stacks that start at once must not both find the same one
    free.
    """
    chosen: dict[str, int] = {}
    for port in wanted:
        if port.option in asked:
            number = asked[port.option] + port.offset
        elif port.name in before:
            number = before[port.name]
        else:
            number = 0 if free_ports else port.base + port.offset
        if port.option in asked and number not in range(1, 65536):
            raise PortTakenError(f"{number} for {port.name} is not a port: give {port.option} one from 1 to 65535")
        if number in chosen.values():
            raise PortTakenError(f"port {number} is asked for twice: choose other values, {port.option} among them")
        if number == 0 or not is_free(number):
            if not free_ports:
                raise PortTakenError(
                    f"port {number} for {port.name} is taken{_by_whom(number)}: end that program, choose another "
                    f"with {port.option}, or let --free-ports choose"
                )
            number = _any_free(chosen.values())
        chosen[port.name] = number
    return chosen


def is_free(number: int) -> bool:
    """Say whether a server could listen on the port of the loopback now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Connections of an earlier server in TIME_WAIT don't take the port: servers set this option too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, number))
        except OSError:
            return False
    return True


def _any_free(taken: Iterable[int]) -> int:
    avoid = set(taken)
    for _ in range(ATTEMPTS):
        number = random.choice(FREE_RANGE)  # noqa: S311 - spread, not secrecy
        if number not in avoid and is_free(number):
            return number
    raise PortTakenError(f"no free port found between {FREE_RANGE.start} and {FREE_RANGE.stop} in {ATTEMPTS} tries")


def _by_whom(number: int) -> str:
    """Name the program that listens, where the system lets us see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            _, port = connection.laddr or ("", 0)
            if port == number and connection.status == psutil.CONN_LISTEN and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except psutil.Error:
        pass  # Not ours to see, or gone meanwhile.
    return ""
