"""Who may what in Redis: its file of users.

It needs Redis 7.0 or newer, or Valkey. The server is given it as `aclfile`; after a change, `ACL LOAD` reads it anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from deploy.access.passwords import password_of
from deploy.access.principals import ADMIN, CLIENT, OPERATOR, PROJECTOR_BALANCES

_CONNECTION: Final = "+ping +select"
"""Logging in needs no permission of its own."""

_READ: Final = f"-@all +@read -@dangerous +multi +exec +discard {_CONNECTION}"

_RULES: Final = {
    ADMIN: "~* &* +@all",
    PROJECTOR_BALANCES: (
        # A function runs with its caller's permissions: what it calls is named here as well.
        "~balance:* ~balances:* ~daybook:* -@all "
        "+fcall +fcall_ro +function|load "
        "+hmget +hget +hgetall +hset +hdel +zadd +zrem +zscore +zscan "
        "+get +set +del +unlink +exists "
        # A rebuild looks for keys that are not its own, and changes the place of two databases.
        f"+scan +dbsize +swapdb {_CONNECTION}"
    ),
    CLIENT: f"%R~balance:* %R~balances:* {_READ}",
    # How far the model is, and what a rebuild has left.
    OPERATOR: f"%R~balance:* %R~balances:* %R~daybook:* {_READ}",
}

USERS: Final = frozenset(_RULES)
"""The principals that Redis knows."""


def acl_file(passwords: Mapping[str, str]) -> str:
    """The file's contents. Passwords are in it as SHA-256 alone, unsalted as Redis has them: they should be random.

    Raises:
        NotConfigured: a principal has no password.
    """
    users = (
        f"user {name} reset on #{hashlib.sha256(password_of(name, passwords).encode()).hexdigest()} {rules}\n"
        for name, rules in _RULES.items()
    )
    # Who does not log in is nobody.
    return "".join(("user default reset off\n", *users))
