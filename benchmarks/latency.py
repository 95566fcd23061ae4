"""From producing a command to reading its reply, at a steady rate."""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass

from confluent_kafka import Consumer, TopicPartition

from benchmarks.workload import codec, producer
from schemas.commands import Deposit, OpenAccount, now_micros
from schemas.connections import Connections

_ACCOUNTS = 200
_WARM_UP_S = 5
_LAST_REPLIES_S = 15


@dataclass(frozen=True, slots=True)
class Latency:
    """Of `count` commands, in milliseconds; `lost` had no reply in time."""

    count: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def reply_latency(connections: Connections, rate: int, seconds: int) -> Latency:
    """Send deposits at `rate` a second and time their replies, as a read-committed consumer sees them. The first
    seconds warm up and are not counted."""
    encoder, sender = codec(connections), producer(connections, linger_ms=0)
    replies = _Replies(connections)
    dice = random.Random(2)
    common = {"user_id": "user-42", "currency": "EUR"}
    for number in range(_ACCOUNTS):
        opening = OpenAccount(
            command_id=str(uuid.uuid4()), account_id=f"L-{number}", issued_at=now_micros(), holder_name="Jane", **common
        )
        sender.produce(connections.topics.commands, encoder.encode_command(opening), opening.account_id.encode())
    sender.flush(30)
    sent: dict[bytes, float] = {}
    begin = time.perf_counter()
    for number in range(rate * (_WARM_UP_S + seconds)):
        while (wait := begin + number / rate - time.perf_counter()) > 0:
            time.sleep(wait)
        command = Deposit(
            command_id=str(uuid.uuid4()),
            account_id=f"L-{dice.randrange(_ACCOUNTS)}",
            issued_at=now_micros(),
            amount_minor=100,
            **common,
        )
        value = encoder.encode_command(command)
        sent[command.command_id.encode()] = time.perf_counter()
        sender.produce(connections.topics.commands, value, command.account_id.encode())
        sender.poll(0)
    sender.flush(30)
    arrived = replies.finish(sent.keys())
    counted = list(sent)[rate * _WARM_UP_S :]
    took_ms = sorted((arrived[key] - sent[key]) * 1000 for key in counted if key in arrived)
    if not took_ms:
        raise RuntimeError("no reply arrived: is the service running?")
    return Latency(
        count=len(counted),
        lost=len(counted) - len(took_ms),
        p50_ms=took_ms[len(took_ms) // 2],
        p99_ms=took_ms[int(len(took_ms) * 0.99)],
        max_ms=took_ms[-1],
    )


class _Replies:
    """Notes when each reply arrives, in a thread of its own."""

    def __init__(self, connections: Connections) -> None:
        topic = connections.topics.replies
        self._consumer = Consumer(
            connections.kafka(
                group_id=f"latency-{uuid.uuid4().hex}", isolation_level="read_committed", enable_auto_commit=False
            )
        )
        places = [TopicPartition(topic, p) for p in self._consumer.list_topics(topic, 10).topics[topic].partitions]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, 10)[1]
        self._consumer.assign(places)
        self._arrived: dict[bytes, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._done.is_set():
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self._arrived.setdefault(message.key(), time.perf_counter())

    def finish(self, wanted: object) -> dict[bytes, float]:
        """When each arrived, once all that are wanted have, or no longer than a while."""
        deadline = time.monotonic() + _LAST_REPLIES_S
        while not wanted <= self._arrived.keys() and time.monotonic() < deadline:
            time.sleep(0.05)
        self._done.set()
        self._thread.join()
        self._consumer.close()
        return self._arrived
