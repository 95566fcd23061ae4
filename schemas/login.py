"""Kafka lets us in, or does not: telling a wrong password from brokers that are away.

Kafka's client tells both as time-outs, since it goes on trying; only its error callback knows which it is.
"""

from __future__ import annotations

import time
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata

from schemas.connections import Connections, NotConfigured

_REFUSALS: Final = {KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED}

_ATTEMPT_S: Final = 2.0
"""One request's bound, after which it is looked at why there was no answer: a refusal comes within a second."""


_OUR_SIDE: Final = "handshake failed: Local:"
"""What librdkafka's text has when the broker hung up, or was silent, as the login began: a broker that is starting or
ending does so. The code is that of a refusal all the same."""


def is_refusal(error: KafkaError) -> bool:
    """Whether Kafka does not take our user and password, by its own word."""
    return error.code() in _REFUSALS and _OUR_SIDE not in error.str()


def told(error: KafkaError) -> str:
    """An error in words; of a refusal also what to look at."""
    hint = "; check DAYBOOK_KAFKA_SASL_USERNAME and DAYBOOK_KAFKA_SASL_PASSWORD" if is_refusal(error) else ""
    return f"{error.str()}{hint}"


class LoginWatch:
    """Watches a Kafka client log in; the client is made with `options` besides its other settings."""

    def __init__(self, connections: Connections) -> None:
        self._address = connections.kafka_bootstrap
        self._refusal: str | None = None
        self.options: Final[dict[str, Any]] = {"error_cb": self._on_error}

    def check(self, client: AdminClient) -> None:
        """To be called when a request failed. Raises `NotConfigured` if Kafka has not let us in since the last call."""
        # The callback is called here.
        client.poll(0)
        refusal, self._refusal = self._refusal, None
        if refusal is not None:
            raise NotConfigured(f"Kafka at {self._address} does not let us in: {refusal}")

    def metadata(self, client: AdminClient, timeout_s: float) -> ClusterMetadata:
        """The topics that there are for us. Blocks for `timeout_s` at most.

        Raises:
            NotConfigured: Kafka does not let us in.
            KafkaException: it does not answer.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return client.list_topics(timeout=_ATTEMPT_S)
            except KafkaException:
                self.check(client)
                if time.monotonic() > deadline:
                    raise

    def _on_error(self, error: KafkaError) -> None:
        if is_refusal(error):
            self._refusal = told(error)
