"""The schema registry for the client's two ways to Kafka: made from the same settings, its failures told alike."""

from __future__ import annotations

from daybook.errors import Unreachable
from schemas.connections import Connections, NotConfigured
from schemas.registry import Registry


def registry(connections: Connections) -> Registry:
    """A registry that was not asked anything yet. Raises: `NotConfigured`, when the settings cannot be used."""
    try:
        return Registry(connections)
    except OSError as error:
        raise NotConfigured(f"DAYBOOK_REGISTRY_SSL_CA, {connections.registry_ssl_ca}: {error.strerror}") from error
    except ValueError as error:
        # The error would tell the address with its password.
        raise NotConfigured(f"DAYBOOK_REGISTRY_URL, {_address(connections)}, is not an HTTP address") from error


def unreachable(connections: Connections, error: Exception) -> Unreachable:
    """What the client says when the registry could not be asked, or lacks a schema."""
    return Unreachable("the schema registry", _address(connections), str(error))


def _address(connections: Connections) -> str:
    return connections.registry_url.rsplit("@", 1)[-1]
