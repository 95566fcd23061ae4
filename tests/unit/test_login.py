"""Telling a wrong password from a broker that hangs up, at a socket that speaks a little of Kafka's protocol."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from schemas.connections import Connections, NotConfigured
from schemas.login import LoginWatch, is_refusal
from schemas.telemetry.quiet import kafka_logger

_HANDSHAKE: Final = 17
_API_VERSIONS: Final = 18
_UNSUPPORTED_VERSION: Final = 35

_APIS: Final = ((3, 0, 4), (_HANDSHAKE, 0, 1), (_API_VERSIONS, 0, 0), (36, 0, 1))
"""Metadata, the handshake, versions and authentication: key, lowest and highest version."""


class HangsUp:
    """A broker that says which requests it knows, and closes the connection when a client begins to log in."""

    def __init__(self) -> None:
        self.handshakes = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, suppress(OSError, struct.error):
                    connection.settimeout(10)
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        while True:
            (size,) = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
            request = connection.recv(size, socket.MSG_WAITALL)
            key, version, correlation_id = struct.unpack_from(">hhi", request)
            if key != _API_VERSIONS:
                self.handshakes += key == _HANDSHAKE
                return
            body = struct.pack(">hi", _UNSUPPORTED_VERSION if version else 0, len(_APIS))
            body += b"".join(struct.pack(">hhh", *api) for api in _APIS)
            connection.sendall(struct.pack(">ii", 4 + len(body), correlation_id) + body)


@pytest.fixture
def broker() -> Iterator[HangsUp]:
    found = HangsUp()
    yield found
    found.close()


def test_a_broker_that_hangs_up_during_the_login_is_no_refusal(broker: HangsUp) -> None:
    connections = Connections(
        _env_file=None,
        kafka_bootstrap=broker.address,
        registry_url="http://127.0.0.1:1",
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="ada",
        kafka_sasl_password="secret",
    )
    watch = LoginWatch(connections)
    heard: list[KafkaError] = []
    options: dict[str, Any] = {**connections.kafka()}

    def on_error(error: KafkaError) -> None:
        heard.append(error)
        watch.options["error_cb"](error)

    with AdminClient(options | {"error_cb": on_error}, logger=kafka_logger()) as client:
        deadline = time.monotonic() + 30
        while not any("handshake" in error.str() for error in heard) and time.monotonic() < deadline:
            client.poll(0.1)
        assert broker.handshakes
        # The code alone would say that the password is wrong.
        assert KafkaError._AUTHENTICATION in {error.code() for error in heard}, heard
        assert not any(is_refusal(error) for error in heard), heard
        with pytest.raises(KafkaException):
            watch.metadata(client, 0.5)


@pytest.mark.parametrize(
    ("code", "text", "refused"),
    [
        (KafkaError._AUTHENTICATION, "SASL authentication error: Authentication failed", True),
        (KafkaError.SASL_AUTHENTICATION_FAILED, "invalid credentials", True),
        (
            KafkaError._AUTHENTICATION,
            "SASL SCRAM-SHA-512 mechanism handshake failed: Broker: Unsupported SASL mechanism",
            True,
        ),
        (KafkaError._AUTHENTICATION, "SASL PLAIN mechanism handshake failed: Local: Broker transport failure", False),
        (KafkaError._AUTHENTICATION, "SASL PLAIN mechanism handshake failed: Local: Timed out", False),
        (KafkaError._TRANSPORT, "Connection refused", False),
    ],
)
def test_only_the_brokers_word_is_a_refusal(code: int, text: str, refused: bool) -> None:
    assert is_refusal(KafkaError(code, text)) == refused


def test_a_refusal_is_told_once() -> None:
    watch = LoginWatch(Connections(_env_file=None, kafka_bootstrap="127.0.0.1:1", registry_url="http://127.0.0.1:1"))
    watch.options["error_cb"](KafkaError(KafkaError._AUTHENTICATION, "Authentication failed"))
    with AdminClient({"bootstrap.servers": "127.0.0.1:1"}, logger=kafka_logger()) as client:
        with pytest.raises(NotConfigured, match="does not let us in: Authentication failed; check DAYBOOK_KAFKA"):
            watch.check(client)
        watch.check(client)
