"""Waiting for a transfer, whatever the order in which the replies to it and to its follow-ups come.

The service is played here: its replies and events are written to the real topics in the order that a test is about.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from confluent_kafka import Producer
from msgspec.structs import replace

from daybook import Client, TransferInFlight, TransferOutcome, TransferStatus
from daybook.errors import ReplyTimeout
from daybook.overheard import MOST
from deploy.definitions import apply
from schemas.codec import Codec
from schemas.commands import CommandReply, CommandStatus, Transfer, now_micros
from schemas.connections import Connections
from schemas.events import Event, TransferCompleted, TransferReceived, TransferReturned, TransferSent
from schemas.registry import Registry
from schemas.topics import FINGERPRINT_HEADER, FOLLOW_UP_FINGERPRINT, REPLAYED_HEADER, partition_of
from schemas.transfers import complete_id, receive_id, return_id
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.processes import until
from tests.recorded import deposited, opened, recorded
from tests.wire import read_all

SENT = 3
"""The event of the source that is the sending."""


class Played:
    """Answers commands as the service does, in any order."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._topics = connections.topics
        self._registry = Registry(connections)
        self._codec = Codec(self._registry)
        self._codec.look_up_replies(self._topics.replies)
        self._codec.look_up_commands(self._topics.commands, [Transfer])
        self._log = Log(connections, chained=True)
        self._producer = Producer(connections.kafka(enable_idempotence=True))
        self.transfer_id = str(uuid.uuid4())
        self.source, self.destination = f"S-{self.transfer_id}", f"D-{self.transfer_id}"
        self.receive = receive_id(self.transfer_id, self.source, SENT)

    def close(self) -> None:
        self._registry.close()

    def taken(self, count: int) -> None:
        """Wait until the transfer was given so often."""

        def found() -> bool:
            given = [self._codec.decode_command(m.value()) for m in read_all(self._connections, self._topics.commands)]
            return sum(one.command_id == self.transfer_id for one in given) == count

        until(found, "the transfer to be given")

    def reply(
        self,
        account_id: str,
        command_id: str,
        sequence: int,
        *,
        code: str | None = None,
        replayed: bool = False,
        events: int = 1,
        theirs: bool = False,
    ) -> None:
        made = CommandReply(
            command_id=command_id,
            account_id=account_id,
            status=CommandStatus.ACCEPTED if code is None else CommandStatus.REJECTED,
            sequence=sequence,
            event_count=events if code is None else 0,
            code=code,
            message=None if code is None else f"it is {code}",
            decided_at=now_micros(),
        )
        self._producer.produce(
            self._topics.replies,
            self._codec.encode_reply(made),
            command_id.encode(),
            partition_of(account_id, PARTITIONS),
            headers=[
                *([(REPLAYED_HEADER, b"1")] if replayed else []),
                (FINGERPRINT_HEADER, b"12345678" if theirs else FOLLOW_UP_FINGERPRINT),
            ],
        )
        assert self._producer.flush(30) == 0

    def others(self, count: int) -> None:
        """Replies to other clients."""
        for number in range(count):
            self._producer.produce(self._topics.replies, b"theirs", f"other-{number}".encode(), number % PARTITIONS)
            self._producer.poll(0)
        assert self._producer.flush(30) == 0

    def answer(self, *, replayed: bool = False) -> None:
        self.reply(self.source, self.transfer_id, SENT, replayed=replayed)

    def record(self, *, back: bool = False, ended: bool = True) -> None:
        """Both accounts' events, as they are where the transfer was settled, or only sent and refused."""
        own: Any = {"transfer_id": self.transfer_id, "amount_minor": 5, "currency": "EUR"}
        sent = TransferSent(to_account_id=self.destination, balance_minor=5, in_transit_minor=5, **own)
        received = TransferReceived(from_account_id=self.source, balance_minor=6, **own)
        self._log.append(
            [
                opened(self.source),
                deposited(self.source, 2, 10),
                replace(recorded(self.source, SENT, sent), command_id=self.transfer_id),
                opened(self.destination),
                deposited(self.destination, 2, 1),
                *([] if back else [replace(recorded(self.destination, 3, received), command_id=self.receive)]),
            ]
        )
        if ended:
            self.end(back=back)

    def end(self, *, back: bool) -> None:
        """The source's last event of the transfer."""
        own: Any = {"transfer_id": self.transfer_id, "amount_minor": 5, "currency": "EUR"}
        own |= {"to_account_id": self.destination, "in_transit_minor": 0}
        event: Event = TransferCompleted(**own)
        if back:
            event = TransferReturned(balance_minor=10, code="account_frozen", message="it is account_frozen", **own)
        command_id = return_id(self.receive) if back else complete_id(self.receive)
        self._log.append([replace(recorded(self.source, 4, event), command_id=command_id)])


@pytest.fixture(scope="module")
def silent(new_connections: Callable[[], Connections]) -> Connections:
    """A ledger whose service does not run."""
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    return connections


@pytest.fixture
def played(silent: Connections) -> Iterator[Played]:
    played = Played(silent)
    yield played
    played.close()


Given = Callable[..., Future[TransferOutcome]]


@pytest.fixture
def give(silent: Connections, played: Played) -> Iterator[Given]:
    """Gives the transfer in a thread of its own, and returns once it is on the topic."""
    with Client(silent, user_id="ada", timeout_s=30) as client, ThreadPoolExecutor(2) as threads:
        times = count(1)

        def given(timeout_s: float = 30.0) -> Future[TransferOutcome]:
            waiting = threads.submit(
                lambda: client.transfer(
                    *(played.source, played.destination, "0.05 EUR"),
                    transfer_id=played.transfer_id,
                    wait=True,
                    timeout_s=timeout_s,
                )
            )
            played.taken(next(times))
            return waiting

        yield given


def told(outcome: TransferOutcome) -> tuple[TransferStatus, int | None, int, int | None, str | None]:
    return outcome.status, outcome.reply.sequence, outcome.from_sequence, outcome.to_sequence, outcome.code


COMPLETED = (TransferStatus.COMPLETED, SENT, SENT, 3, None)
RETURNED = (TransferStatus.RETURNED, SENT, 4, None, "account_frozen")


def test_replies_to_follow_ups_may_come_before_that_to_the_transfer(played: Played, give: Given) -> None:
    waiting = give()
    played.reply(played.destination, played.receive, 3)
    played.others(100)
    played.answer()
    assert told(waiting.result(30)) == COMPLETED


def test_so_may_those_of_one_that_comes_back(played: Played, give: Given) -> None:
    waiting = give()
    played.reply(played.destination, played.receive, 3, code="account_frozen")
    played.reply(played.source, return_id(played.receive), 4)
    played.answer()
    assert told(waiting.result(30)) == RETURNED


@pytest.mark.parametrize("code", ["not_a_client_command", None])
def test_what_a_stranger_gave_under_the_same_id_is_no_answer(played: Played, give: Given, code: str | None) -> None:
    """Be it refused, or a deposit that was accepted."""
    waiting = give()
    for _ in range(2):
        played.reply(played.destination, played.receive, 3, code=code, theirs=True)
        played.reply(played.source, return_id(played.receive), 3, code=code, theirs=True)
        played.answer()
    played.reply(played.destination, played.receive, 3)
    assert told(waiting.result(30)) == COMPLETED


def test_replies_to_follow_ups_may_come_in_any_order_behind_it(played: Played, give: Given) -> None:
    waiting = give()
    played.answer()
    played.reply(played.source, return_id(played.receive), 4)
    played.reply(played.destination, played.receive, 9, code="account_frozen")
    assert told(waiting.result(30)) == RETURNED


def test_several_that_wait_for_one_transfer_are_all_told(played: Played, give: Given) -> None:
    waiting = [give(), give()]
    played.answer()
    # Each that gave it is answered; the follow-ups' replies come once.
    played.answer(replayed=True)
    played.reply(played.destination, played.receive, 3)
    assert [told(one.result(30)) for one in waiting] == [COMPLETED] * 2


@pytest.mark.parametrize("back", [False, True])
def test_what_was_dropped_among_many_replies_is_found_in_the_log(played: Played, give: Given, back: bool) -> None:
    waiting = give()
    played.record(back=back)
    played.reply(played.destination, played.receive, 3, code="account_frozen" if back else None)
    if back:
        played.reply(played.source, return_id(played.receive), 4)
    played.others(MOST + 1)
    played.answer()
    assert told(waiting.result(30)) == (RETURNED if back else COMPLETED)


def test_of_a_transfer_that_was_given_before_the_log_tells(played: Played, give: Given) -> None:
    played.record()
    waiting = give()
    # By another command under the same transfer id, so that the reply does not say where the sending is.
    played.reply(played.source, played.transfer_id, 7, events=0)
    assert told(waiting.result(30)) == (TransferStatus.COMPLETED, 7, SENT, 3, None)


def test_where_only_the_return_was_not_missed_the_log_says_why(played: Played, give: Given) -> None:
    waiting = give()
    played.record(back=True, ended=False)
    played.reply(played.destination, played.receive, 3, code="account_frozen")
    played.answer(replayed=True)
    with pytest.raises(TimeoutError):
        waiting.result(1)
    played.end(back=True)
    played.reply(played.source, return_id(played.receive), 4)
    assert told(waiting.result(30)) == RETURNED


@pytest.mark.parametrize("refused", [False, True])
def test_a_transfer_that_is_not_settled_in_time_is_in_flight(played: Played, give: Given, refused: bool) -> None:
    waiting = give(timeout_s=3)
    played.answer()
    if refused:
        played.reply(played.destination, played.receive, 3, code="account_frozen")
    with pytest.raises(TransferInFlight, match=f"history --transfer {played.transfer_id}.*--in-flight") as caught:
        waiting.result(30)
    assert (caught.value.refused, caught.value.transfer_id) == (refused, played.transfer_id)
    assert isinstance(caught.value, ReplyTimeout)
    assert caught.value.command_ids == (played.transfer_id,)
    assert (f"was not taken in by {played.destination}" in str(caught.value)) is refused


def test_without_a_reply_to_the_transfer_it_is_not_known_to_be_sent(played: Played, give: Given) -> None:
    waiting = give(timeout_s=2)
    with pytest.raises(ReplyTimeout, match="under the same command id is safe") as caught:
        waiting.result(30)
    assert not isinstance(caught.value, TransferInFlight)
