"""Choosing a stack's ports."""

import socket
from collections.abc import Iterator

import pytest

from deploy.stack.errors import PortTakenError
from deploy.stack.ports import FREE_RANGE, choose, is_free
from deploy.stack.server import Port


@pytest.fixture
def taken() -> Iterator[int]:
    """A port of the loopback on which somebody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_defaults_are_base_plus_offset() -> None:
    first = Port("kafka-1", "--kafka-port", 19092)
    second = Port("kafka-2", "--kafka-port", 19092, 1)
    asked = {"--kafka-port": _free_pair()}
    assert choose([first, second], asked, {}, free_ports=False) == {
        "kafka-1": asked["--kafka-port"],
        "kafka-2": asked["--kafka-port"] + 1,
    }


def test_a_taken_port_is_an_error_that_names_it_its_holder_and_both_ways_out(taken: int) -> None:
    with pytest.raises(PortTakenError) as error:
        choose([Port("redis", "--redis-port", taken)], {}, {}, free_ports=False)
    message = str(error.value)
    assert f"port {taken} for redis is taken by " in message
    assert "--redis-port" in message
    assert "--free-ports" in message


def test_free_ports_avoids_a_taken_one(taken: int) -> None:
    port = Port("redis", "--redis-port", 16379)
    chosen = choose([port], {"--redis-port": taken}, {}, free_ports=True)["redis"]
    assert chosen != taken
    assert chosen in FREE_RANGE
    assert is_free(chosen)


def test_an_earlier_choice_is_kept() -> None:
    before = {"redis": _free_pair()}
    port = Port("redis", "--redis-port", 16379)
    assert choose([port], {}, before, free_ports=False) == before
    assert choose([port], {}, before, free_ports=True) == before


def test_an_option_wins_over_an_earlier_choice() -> None:
    before, asked = {"redis": _free_pair()}, {"--redis-port": _free_pair()}
    port = Port("redis", "--redis-port", 16379)
    assert choose([port], asked, before, free_ports=False) == {"redis": asked["--redis-port"]}


def test_one_port_asked_for_twice_is_an_error() -> None:
    number = _free_pair()
    wanted = [Port("registry", "--registry-port", 18081), Port("redis", "--redis-port", 16379)]
    asked = {"--registry-port": number, "--redis-port": number}
    with pytest.raises(PortTakenError, match=f"port {number} is asked for twice"):
        choose(wanted, asked, {}, free_ports=False)


@pytest.mark.parametrize("number", [0, -1, 65536, 70000])
def test_a_number_that_is_no_port_is_an_error(number: int) -> None:
    with pytest.raises(PortTakenError, match="is not a port"):
        choose([Port("redis", "--redis-port", 16379)], {"--redis-port": number}, {}, free_ports=False)


def _free_pair() -> int:
    """Return a port that is free together with its successor."""
    return next(number for number in FREE_RANGE if is_free(number) and is_free(number + 1))
