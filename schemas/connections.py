"""Where the servers are: the environment variables that every process reads, under one name each.

`daybook stack up` writes the same names in dotenv form to `.daybook/env`; a process finds that file where it is
started, or where `DAYBOOK_ENV_FILE` says. The environment itself wins over the file.
"""

from __future__ import annotations

import os
from typing import Any, Final, Literal, Self
from urllib.parse import urlencode

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.readmodels import Indices
from schemas.topics import Topics

DEFAULT_ENV_FILE: Final = ".daybook/env"


LOG_LEVEL: Final = Field("INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", validation_alias="DAYBOOK_LOG_LEVEL")
"""The field of a process that logs: one variable for all of them."""

LOG_FORMAT: Final = Field("text", pattern="^(text|json)$", validation_alias="DAYBOOK_LOG_FORMAT")
"""Likewise: `text` for people, `json` for what collects logs."""


class NotConfigured(Exception):
    """The environment does not say, or says wrongly, where the servers are."""


class EnvironmentSettings(BaseSettings):
    """Settings read from the environment and the dotenv file: a field `x` is the variable `<prefix>X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_", env_file=None, extra="ignore", frozen=True)

    @classmethod
    def from_environment(cls) -> Self:
        """Read the environment and the dotenv file.

        Raises:
            NotConfigured: naming each variable that is missing or wrong.
        """
        try:
            return cls(_env_file=os.environ.get("DAYBOOK_ENV_FILE", DEFAULT_ENV_FILE))
        except ValidationError as error:
            wrong = "; ".join(f"{cls._variable(str(e['loc'][0]))}: {e['msg']}" for e in error.errors())
            missing = any(e["type"] == "missing" for e in error.errors())
            remedy = "Set these variables, or start the local stack here with `daybook stack up`"
            raise NotConfigured(f"{wrong}. {remedy}" if missing else wrong) from None

    @classmethod
    def _variable(cls, field: str) -> str:
        prefix = cls.model_config.get("env_prefix", "")
        return field if field.startswith("DAYBOOK_") else f"{prefix}{field}".upper()


class KekSettings(EnvironmentSettings):
    """Where the key-encryption keys are (`schemas.keyring`): for whoever seals or reads personal fields."""

    kek_file: str | None = None
    kek: SecretStr | None = None
    """What such a file has, where there can be none."""


class Connections(KekSettings):
    """Addresses and credentials. A field `x` is the environment variable `DAYBOOK_X`."""

    kafka_bootstrap: str = Field(min_length=1)
    registry_url: str = Field(min_length=1)
    redis_url: SecretStr | None = None
    elasticsearch_url: SecretStr | None = None
    iceberg_catalog: str | None = None
    """The name of a catalog that PyIceberg's own configuration has, or a URI: `sqlite:///FILE`, or a REST catalog's."""
    iceberg_warehouse: str | None = None
    """Where a catalog given by URI keeps new tables: a folder, as a path or `file://` URI, or `s3://BUCKET/PATH`."""

    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca: str | None = None
    registry_token: SecretStr | None = None
    """What the registry wants as `Authorization: Bearer`, from whom it does not serve everybody."""
    registry_ssl_ca: str | None = None
    redis_ssl_ca: str | None = None
    elasticsearch_username: str | None = None
    elasticsearch_password: SecretStr | None = None
    elasticsearch_api_key: SecretStr | None = None
    elasticsearch_ssl_ca: str | None = None

    audit_key_file: str | None = None
    """The private key that signs checkpoints: for the auditor alone."""
    audit_public_key_file: str | None = None
    """The public keys of those who may have signed checkpoints: for whoever verifies them."""

    namespace: str = ""
    """Put before every topic, group and transactional id, so that several ledgers can share one cluster."""

    @field_validator("namespace")
    @classmethod
    def _is_a_topic_prefix(cls, value: str) -> str:
        if not all(c.isascii() and (c.isalnum() or c in "_-") for c in value):
            raise ValueError("use ASCII letters, digits, _ and - only")
        return value

    @property
    def topics(self) -> Topics:
        return Topics(self.namespace)

    @property
    def indices(self) -> Indices:
        """The names of the search indices. Raises `NotConfigured`, since Elasticsearch has no capital letters."""
        if self.namespace != self.namespace.lower() or self.namespace.startswith(("-", "_")):
            raise NotConfigured(
                f"DAYBOOK_NAMESPACE={self.namespace}: the search indices need a namespace in lower case that begins "
                "with a letter or a digit"
            )
        return Indices(self.namespace)

    def registry(self) -> dict[str, object]:
        """Configuration for Confluent's registry client: where it is, whom to trust, and as whom to ask."""
        config: dict[str, object] = {"url": self.registry_url}
        if self.registry_ssl_ca is not None:
            config["ssl.ca.location"] = self.registry_ssl_ca
        if self.registry_token is not None:
            config["bearer.auth.credentials.source"] = "STATIC_TOKEN"
            config["bearer.auth.token"] = self.registry_token.get_secret_value()
            # Confluent's cloud wants to know which of its registries is meant, so that its client insists on a name.
            config["bearer.auth.logical.cluster"] = "daybook"
        return config

    def redis(self) -> str:
        """The Redis URL, with its password if it has one, and whom to trust. Raises `NotConfigured` without one."""
        if self.redis_url is None:
            raise NotConfigured(
                "DAYBOOK_REDIS_URL is not set: it says where balances are kept, as redis://HOST:PORT/DB"
            )
        url = self.redis_url.get_secret_value()
        if self.redis_ssl_ca is None or not url.startswith("rediss:"):
            return url
        return f"{url}{'&' if '?' in url else '?'}{urlencode({'ssl_ca_certs': self.redis_ssl_ca})}"

    def elasticsearch(self) -> dict[str, Any]:
        """Arguments for the Elasticsearch client: where it is, and as whom to ask. Raises `NotConfigured`.

        Failed requests are not repeated unless the caller says so: who asks knows what a repetition does.
        """
        if self.elasticsearch_url is None:
            raise NotConfigured(
                "DAYBOOK_ELASTICSEARCH_URL is not set: it says where the search indices are, as http://HOST:PORT"
            )
        config: dict[str, Any] = {"hosts": self.elasticsearch_url.get_secret_value(), "max_retries": 0}
        if self.elasticsearch_api_key is not None:
            config["api_key"] = self.elasticsearch_api_key.get_secret_value()
        elif self.elasticsearch_username is not None and self.elasticsearch_password is not None:
            config["basic_auth"] = (self.elasticsearch_username, self.elasticsearch_password.get_secret_value())
        if self.elasticsearch_ssl_ca is not None:
            config["ca_certs"] = self.elasticsearch_ssl_ca
        return config

    def kafka(self, **options: str | int | bool) -> dict[str, str | int | float | bool]:
        """librdkafka's configuration: the connection, and `options` with `_` for each dot."""
        config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.kafka_bootstrap,
            "security.protocol": self.kafka_security_protocol,
        }
        if self.kafka_sasl_mechanism is not None:
            config["sasl.mechanism"] = self.kafka_sasl_mechanism
        if self.kafka_sasl_username is not None:
            config["sasl.username"] = self.kafka_sasl_username
        if self.kafka_sasl_password is not None:
            config["sasl.password"] = self.kafka_sasl_password.get_secret_value()
        if self.kafka_ssl_ca is not None:
            config["ssl.ca.location"] = self.kafka_ssl_ca
        return config | {name.replace("_", "."): value for name, value in options.items()}
