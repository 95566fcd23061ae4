"""Who may what in Elasticsearch: the files of its file realm, which the minimal distribution has as well.

They belong into Elasticsearch's configuration folder, which it looks at every few seconds: a changed password or role
counts without a restart.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Mapping
from typing import Final

from deploy.access.passwords import password_of
from deploy.access.principals import ADMIN, CLIENT, OPERATOR, PROJECTOR_SEARCH
from schemas.readmodels import Indices

HEALTH_ROLE: Final = "daybook-health"
"""Of whoever does not log in, where `xpack.security.authc.anonymous.roles` says so: a server's health check needs no
password then, and learns nothing but the cluster's health."""

_SUPERUSER: Final = "superuser"
"""Elasticsearch's own role, which no file defines."""

_ROLES: Final = {ADMIN: _SUPERUSER} | {name: f"daybook-{name}" for name in (PROJECTOR_SEARCH, CLIENT, OPERATOR)}

USERS: Final = frozenset(_ROLES)
"""The principals that Elasticsearch knows."""

_ITERATIONS: Final = 10_000
"""As Elasticsearch's own tool for users does by default; it keeps what it has verified in memory for 20 minutes."""

_SALT_BYTES: Final = 32
_KEY_BYTES: Final = 32


def files(passwords: Mapping[str, str], indices: Indices) -> Mapping[str, str]:
    """The contents of `users`, `users_roles` and `roles.yml`, by name. Passwords are in them as salted hashes alone.

    Each call draws new salts, so that the same passwords do not give the same text.

    Raises:
        NotConfigured: a principal has no password.
    """
    roles = _roles(indices)
    return {
        "users": "".join(f"{name}:{_hash(password_of(name, passwords))}\n" for name in _ROLES),
        "users_roles": "".join(f"{role}:{name}\n" for name, role in _ROLES.items()),
        # Each value in JSON, which is YAML as well.
        "roles.yml": "".join(
            f"{name}: {json.dumps(role)}\n"
            for name, role in (
                *((_ROLES[principal], role) for principal, role in roles.items()),
                (HEALTH_ROLE, {"cluster": ["cluster:monitor/health"]}),
            )
        ),
    }


def _roles(indices: Indices) -> Mapping[str, object]:
    aliases = [indices.accounts, indices.account_events]
    # Reading through an alias alone leaves out what the alias's filter hides.
    read = {"names": aliases, "privileges": ["read"]}
    behind = [f"{alias}-*" for alias in aliases]
    project = {
        # An alias is moved by who may manage both it and the index that it points to.
        "names": [*aliases, *behind],
        "privileges": [
            "read",
            "write",
            "view_index_metadata",
            # How many searches an old index still serves.
            "monitor",
            # Refreshes, so that a rebuilt index can be compared.
            "maintenance",
            "create_index",
            "delete_index",
            "indices:admin/aliases",
            # The mark in an index's mapping that says what it is: being built, live, or kept.
            "indices:admin/mapping/put",
        ],
    }
    erase = (
        # Also what an alias hides, and what a rebuild keeps; and whether a merge is due.
        {"names": behind, "privileges": ["read", "view_index_metadata", "monitor"]},
        # A holder's name in an index that a rebuild keeps is overwritten; what was overwritten is flushed and merged.
        {"names": [f"{indices.accounts}-*"], "privileges": ["index", "maintenance"]},
    )
    return {
        # Whether the index templates are deployed: without them, an index would be made with guessed fields.
        PROJECTOR_SEARCH: {"cluster": ["indices:admin/index_template/get"], "indices": [project]},
        CLIENT: {"indices": [read]},
        # Comparing a model with the log begins with a refresh, so that searches see what the projector has written.
        OPERATOR: {"indices": [read, {"names": aliases, "privileges": ["indices:admin/refresh*"]}, *erase]},
    }


def _hash(password: str) -> str:
    """As Elasticsearch's `pbkdf2_stretch` has it: the password's SHA-512 in hexadecimal is what is stretched."""
    salt = secrets.token_bytes(_SALT_BYTES)
    stretched = hashlib.sha512(password.encode()).hexdigest().encode()
    key = hashlib.pbkdf2_hmac("sha512", stretched, salt, _ITERATIONS, _KEY_BYTES)
    return f"{{PBKDF2_STRETCH}}{_ITERATIONS}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}"
