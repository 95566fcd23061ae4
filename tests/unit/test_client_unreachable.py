"""Servers that are not there: real sockets, refused or silent."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from daybook import Client, NotConfigured, Unreachable
from schemas.commands import Freeze
from schemas.connections import Connections


@pytest.fixture
def refusing() -> Iterator[str]:
    """An address of ours at which nobody listens: bound, so that no one else can take it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def connections(address: str) -> Connections:
    return Connections(
        kafka_bootstrap=address, registry_url=f"http://{address}", redis_url=f"redis://user:secret@{address}/3"
    )


def test_a_refusing_broker_is_noticed_before_the_time_is_up(refusing: str) -> None:
    began = time.monotonic()
    with Client(connections(refusing), user_id="ada", timeout_s=30) as client:
        with pytest.raises(Unreachable, match="Connection refused") as caught:
            client.freeze("A-1")
        assert (caught.value.server, caught.value.address) == ("Kafka", refusing)
        with pytest.raises(Unreachable, match="daybook stack up"):
            next(client.send_many([client.command(Freeze, "A-1")]))
        with pytest.raises(Unreachable, match="Connection refused"):
            next(client.events())
    assert time.monotonic() - began < 15


def test_a_silent_broker_is_given_up_in_time(silent: str) -> None:
    with Client(connections(silent), user_id="ada") as client:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="Kafka at"):
            client.freeze("A-1", timeout_s=1.5)
        assert 1.4 < time.monotonic() - began < 4


def test_a_refusing_redis_is_named_without_its_password(refusing: str) -> None:
    with Client(connections(refusing), user_id="ada") as client:
        with pytest.raises(Unreachable, match="refused") as caught:
            client.balance("A-1")
        assert caught.value.address == f"{refusing}/3"
        assert "secret" not in str(caught.value)
        with pytest.raises(Unreachable):
            client.balance("A-1", at_least=1, timeout_s=1)
        with pytest.raises(Unreachable):
            next(client.balances(["A-1"]))
        with pytest.raises(Unreachable):
            client.top("EUR")


def test_a_silent_redis_is_given_up_in_time(silent: str) -> None:
    with Client(connections(silent), user_id="ada", timeout_s=0.5) as client:
        began = time.monotonic()
        with pytest.raises(Unreachable, match="Redis at"):
            client.balance("A-1")
        assert time.monotonic() - began < 2


def test_balances_without_an_address_are_not_configured(refusing: str) -> None:
    only_kafka = Connections(kafka_bootstrap=refusing, registry_url=f"http://{refusing}")
    with Client(only_kafka, user_id="ada") as client, pytest.raises(NotConfigured, match="DAYBOOK_REDIS_URL"):
        client.balance("A-1")


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("kafka_ssl_ca", "/nowhere/ca.pem", r"DAYBOOK_KAFKA_ settings cannot be used: .*ssl\.ca\.location"),
        ("registry_url", "registry", "DAYBOOK_REGISTRY_URL, registry, is not an HTTP address"),
        ("registry_ssl_ca", "/nowhere/ca.pem", "DAYBOOK_REGISTRY_SSL_CA, /nowhere/ca.pem: No such file"),
    ],
)
def test_settings_that_cannot_be_used_are_named(refusing: str, setting: str, value: str, message: str) -> None:
    wrong = connections(refusing).model_copy(update={setting: value, "kafka_security_protocol": "SSL"})
    with Client(wrong, user_id="ada", timeout_s=1) as client:
        with pytest.raises(NotConfigured, match=message):
            client.freeze("A-1")
        with pytest.raises(NotConfigured, match=message):
            next(client.events())


@pytest.mark.parametrize("url", ["127.0.0.1:6379", "redis://:secret/word@127.0.0.1:6379/0"])
def test_what_is_no_redis_address_is_said_without_telling_it(refusing: str, url: str) -> None:
    wrong = Connections(kafka_bootstrap=refusing, registry_url=f"http://{refusing}", redis_url=url)
    with Client(wrong, user_id="ada") as client, pytest.raises(NotConfigured, match="DAYBOOK_REDIS_URL") as caught:
        client.balance("A-1")
    assert "secret" not in str(caught.value)
