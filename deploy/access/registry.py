"""Who may what in the schema registry, Apicurio: everybody reads, and who writes needs a signed token.

There is no server that issues tokens. The deployment has a key pair: its private half signs them, and the registry is
given the public half.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwt
from joserfc.jwk import RSAKey

from deploy.access.principals import ADMIN, REGISTRY

PUBLIC_KEY_PROPERTY: Final = "quarkus.oidc.public-key"

PROPERTIES: Final[Mapping[str, str]] = {
    # Tokens are looked into. With a public key, no server is asked about them.
    "quarkus.oidc.tenant-enabled": "true",
    "quarkus.oidc.roles.role-claim-path": "roles",
    # Without this, any token that is valid could write.
    "apicurio.auth.role-based-authorization": "true",
    # Schemas are no secret, and a reader that holds no token has none to lose.
    "apicurio.auth.anonymous-read-access.enabled": "true",
}
"""The registry's settings, by the names that its properties file has; `properties` adds the keys and passwords."""

SETTINGS: Final[Mapping[str, str]] = {
    name.upper().replace(".", "_").replace("-", "_"): value for name, value in PROPERTIES.items()
}
"""The same as environment variables of its container."""

LIFETIME_DAYS: Final = 3650
"""A token is taken away by another key pair, not by waiting: a deployment must not stop working on some day."""

_KEY_BITS: Final = 2048
_ADMIN_ROLE: Final = "sr-admin"
_READER_ROLE: Final = "sr-readonly"
_DAY_S: Final = 24 * 60 * 60


def new_key() -> tuple[str, str]:
    """A new pair of keys, the private one and the public one, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return private.decode(), public.decode()


def token(private_pem: str, principal: str, *, lifetime_days: float = LIFETIME_DAYS) -> str:
    """A token for a principal, for `DAYBOOK_REGISTRY_TOKEN`. The administrator's may write, any other only reads.

    Raises:
        ValueError: that is no private key.
    """
    now = int(time.time())
    claims = {
        "sub": principal,
        # By this name the registry knows who registered a schema.
        "upn": principal,
        "roles": [_ADMIN_ROLE if principal == ADMIN else _READER_ROLE],
        "iat": now,
        "exp": now + int(lifetime_days * _DAY_S),
    }
    return jwt.encode({"alg": "RS256"}, claims, RSAKey.import_key(private_pem))


def properties(
    public_pem: str, kafka_password: str | None = None, *, security_protocol: str = "SASL_PLAINTEXT"
) -> Mapping[str, str]:
    """All settings, for a properties file that `quarkus.config.locations` (QUARKUS_CONFIG_LOCATIONS) names.

    With a `kafka_password`, those for its storage in Kafka as well: it logs in there as the principal `registry`.
    """
    key = "".join(line for line in public_pem.splitlines() if not line.startswith("-----"))
    found = {**PROPERTIES, PUBLIC_KEY_PROPERTY: key}
    if kafka_password is not None:
        escaped = kafka_password.replace("\\", "\\\\").replace('"', '\\"')
        login = f'org.apache.kafka.common.security.scram.ScramLoginModule required username="{REGISTRY}"'
        found |= {
            "apicurio.kafka.common.security.protocol": security_protocol,
            "apicurio.kafka.common.sasl.mechanism": "SCRAM-SHA-512",
            "apicurio.kafka.common.sasl.jaas.config": f'{login} password="{escaped}";',
        }
    return found


def properties_file(settings: Mapping[str, str]) -> str:
    """Settings in the form of a Java properties file."""
    # In a value a backslash is an escape, and `${...}` would be replaced by another setting.
    lines = ((name, value.replace("\\", "\\\\").replace("${", "\\\\${")) for name, value in settings.items())
    return "".join(f"{name}={value}\n" for name, value in lines)
