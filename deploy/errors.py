"""What can go wrong with deploying definitions. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class DeployError(Exception):
    """The base of this package's errors about definitions; the local stack has its own."""


class Refused(DeployError):
    """What is wanted cannot be had, or a server turned it down. Running the same again will not help."""


class Unreachable(DeployError):
    """A server did not answer in time, or not as such a server does. Running the same again later may help."""

    def __init__(self, server: str, address: str, why: str) -> None:
        self.server = server
        self.address = address
        super().__init__(f"{server} at {address}: {why}")
