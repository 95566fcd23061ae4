"""The principals' passwords, as a file has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.access.principals import PRINCIPALS, SCRAM_PRINCIPALS
from schemas.connections import NotConfigured


def read(path: Path) -> dict[str, str]:
    """The passwords of a file with lines `principal=password`. Empty lines, and those that begin with `#`, are skipped.

    Raises:
        NotConfigured: it cannot be read, a line is not of that form, or a principal of Kafka's is missing. No message
            has a password in it.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise NotConfigured(f"the passwords file {path} cannot be read: {why}") from None
    passwords: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, password = line.partition("=")
        where = f"the passwords file {path}, line {number}"
        if not equals or not password:
            raise NotConfigured(f"{where}: write principal=password")
        if name not in PRINCIPALS:
            raise NotConfigured(f'{where}: there is no principal "{name}"; they are {", ".join(PRINCIPALS)}')
        if name in passwords:
            raise NotConfigured(f"{where}: {name} has a password already; leave one of the two lines")
        passwords[name] = password
    if missing := [name for name in SCRAM_PRINCIPALS if name not in passwords]:
        raise NotConfigured(f"the passwords file {path} has no line for {', '.join(missing)}: add principal=password")
    return passwords


def password_of(principal: str, passwords: Mapping[str, str]) -> str:
    """A principal's password. Raises `NotConfigured` if there is none."""
    password = passwords.get(principal)
    if not password:
        raise NotConfigured(f"there is no password for the principal {principal}")
    return password
