"""How far each program has come with its topic: what `daybook status` shows.

Positions of read models are the models' own checkpoints; the activity program and the command service have theirs in
their consumer groups. Ends are where what is committed ends. Both count offsets, of which transactions' own marks take
some: a lag is a number of offsets, and may stay above zero where only marks are left. The seconds that a program is
behind tell what that is worth: the age of the oldest record that it has yet to read, 0 when there is none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from threading import Thread
from typing import Final, TypeVar

from confluent_kafka import (
    ConsumerGroupState,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ConsumerGroupDescription

from daybook import kafka, supervise
from daybook.activity import ActivitySettings, ask
from daybook.errors import DaybookError, Unreachable
from daybook.log import first_unread, log_identity
from daybook.positions import MODELS, Position, position
from schemas.connections import Connections, NotConfigured

T = TypeVar("T")

COMMAND_SERVICE: Final = "command-service"
ACTIVITY: Final = "activity"
FOLLOW_UPS: Final = "follow-ups"
"""The command service once more, with the topic on which it gives itself the other halves of transfers."""
PROGRAMS: Final = (COMMAND_SERVICE, FOLLOW_UPS, *MODELS, ACTIVITY)

_GRACE_S: Final = 2.0
"""What a server that was given its time is waited for beyond that, when its client does not keep to it."""

_NO_GROUP: Final = {KafkaError.GROUP_ID_NOT_FOUND}


class State(StrEnum):
    """Whether a program runs, by its consumer group."""

    RUNNING = "running"
    REBALANCING = "rebalancing"
    """Its processes are sharing out the partitions, which takes seconds."""
    STOPPED = "stopped"
    UNKNOWN = "unknown"
    """Kafka could not be asked."""
    NOT_CONFIGURED = "not configured"
    """It is not said where its model is kept, and it does not run."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a program has come with a partition. What could not be found out is None."""

    partition: int
    position: int | None
    """None also when it has not begun with it: then it is to read from the start."""
    end: int | None
    lag: int | None
    behind_s: float | None
    member: str | None
    """The process that has the partition, by its client id and host."""


@dataclass(frozen=True, slots=True)
class ProgramStatus:
    program: str
    topic: str
    state: State
    problems: tuple[str, ...]
    """What is wrong with its servers or its place, in words; none when nothing is known to be."""
    partitions: tuple[Reached, ...]

    def is_well(self, max_behind_s: float) -> bool:
        """Whether it runs, nothing is known to be wrong, and no partition is further behind. What is not configured is
        not missed."""
        if self.state is State.NOT_CONFIGURED:
            return True
        behind = [reached.behind_s for reached in self.partitions]
        return (
            self.state is State.RUNNING
            and not self.problems
            and all(seconds is not None and seconds <= max_behind_s for seconds in behind)
        )


@dataclass(frozen=True, slots=True)
class _Group:
    """A consumer group as its coordinator has it."""

    state: State
    members: Mapping[tuple[str, int], str]
    """Who has a topic's partition."""


@dataclass(frozen=True, slots=True)
class _Log:
    """What Kafka knows: which log it is, where its topics end, and who reads them."""

    name: str
    ends: Mapping[str, Mapping[int, int]]
    groups: Mapping[str, _Group]
    committed: Mapping[str, Mapping[tuple[str, int], int]]


def status(
    connections: Connections, *, timeout_s: float, activity: ActivitySettings | None = None
) -> tuple[ProgramStatus, ...]:
    """All programs, asked for side by side. Blocks for little more than twice `timeout_s`, whoever does not answer.

    The activity program is asked where `activity` says, or the environment.
    It raises nothing for that: what could not be asked is said in the rows that it concerns.
    """
    log = _begun(lambda: _ask_kafka(connections, timeout_s))
    asked = [
        (program, _begun(partial(_program, connections, program, log, timeout_s, activity))) for program in PROGRAMS
    ]
    deadline = time.monotonic() + 2 * timeout_s + _GRACE_S
    found: list[ProgramStatus] = []
    for program, answer in asked:
        try:
            found.append(answer.result(max(0.0, deadline - time.monotonic())))
        except TimeoutError:
            problem = f"unreachable: no answer within {2 * timeout_s:g} s"
            found.append(ProgramStatus(program, _topic(connections, program), State.UNKNOWN, (problem,), ()))
    return tuple(found)


def _begun(task: Callable[[], T]) -> Future[T]:
    """Run a task in a thread that does not outlive the process: a client may not keep to its bound."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(task())
        except BaseException as error:  # It is raised where the result is asked for.
            future.set_exception(error)

    Thread(target=run, name="daybook-status", daemon=True).start()
    return future


def _topic(connections: Connections, program: str) -> str:
    topics = connections.topics
    return {COMMAND_SERVICE: topics.commands, FOLLOW_UPS: topics.followups}.get(program, topics.events)


def _group(connections: Connections, program: str) -> str:
    topics = connections.topics
    is_service = program in (COMMAND_SERVICE, FOLLOW_UPS)
    return topics.command_service_group if is_service else topics.projector_group(program)


def _program(
    connections: Connections, program: str, log: Future[_Log], timeout_s: float, activity: ActivitySettings | None
) -> ProgramStatus:
    topic = _topic(connections, program)
    problems: list[str] = []
    known: _Log | None = None
    try:
        known = log.result()
    except (DaybookError, NotConfigured) as error:
        problems.append(_wording(error))
    ends = {} if known is None else known.ends[topic]
    group = _Group(State.UNKNOWN, {}) if known is None else known.groups[_group(connections, program)]
    if program in supervise.idle(supervise.PROGRAMS, connections) and group.state is not State.RUNNING:
        return ProgramStatus(program, topic, State.NOT_CONFIGURED, (), ())
    place: Position | None = None
    try:
        place = _position(connections, program, known, sorted(ends) or [0], timeout_s, activity)
    except (DaybookError, NotConfigured) as error:
        problems.append(_wording(error))
    if known is not None and place is not None and place.log not in (None, known.name):
        problems.append(f"it was made from another log, {place.log}, where this is {known.name}")
        place = None
    behind: Mapping[int, float | None] = {}
    if known is not None and place is not None:
        try:
            behind = _behind(connections, topic, place.offsets, ends, timeout_s)
        except DaybookError as error:
            problems.append(_wording(error))
    reached = [
        _reached(p, topic, place, ends, behind, group) for p in sorted({*ends, *(place.offsets if place else ())})
    ]
    return ProgramStatus(program, topic, group.state, tuple(problems), tuple(reached))


def _reached(
    partition: int,
    topic: str,
    place: Position | None,
    ends: Mapping[int, int],
    behind: Mapping[int, float | None],
    group: _Group,
) -> Reached:
    stands = None if place is None else place.offsets.get(partition)
    end = ends.get(partition)
    lag = None if place is None or end is None else max(0, end - (stands or 0))
    return Reached(partition, stands, end, lag, behind.get(partition), group.members.get((topic, partition)))


def _position(
    connections: Connections,
    program: str,
    log: _Log | None,
    partitions: Collection[int],
    timeout_s: float,
    activity: ActivitySettings | None,
) -> Position | None:
    if program in MODELS:
        return position(connections, program, partitions, timeout_s=timeout_s)
    if program == ACTIVITY and (log is None or log.groups[_group(connections, program)].state is State.RUNNING):
        ask((activity or ActivitySettings.from_environment()).url, "/health", timeout_s=timeout_s)
    if log is None:
        return None
    topic = _topic(connections, program)
    committed = log.committed[_group(connections, program)]
    return Position(log.name, {p: offset for (name, p), offset in committed.items() if name == topic})


def _ask_kafka(connections: Connections, timeout_s: float) -> _Log:
    """Raises: `Unreachable`."""
    deadline = time.monotonic() + timeout_s
    topics = connections.topics
    health = kafka.Health()
    names = (topics.commands, topics.followups, topics.events)
    with closing(kafka.consumer(connections, health)) as source:
        counts = kafka.partitions(source, names, connections, health, deadline)
    places = [(name, p) for name, count in zip(names, counts, strict=True) for p in range(count)]
    ends: dict[str, dict[int, int]] = {name: {} for name in names}
    for at in kafka.ends(connections, places, deadline, isolation_level=IsolationLevel.READ_COMMITTED):
        ends[at.topic][at.partition] = at.offset
    groups = list(dict.fromkeys(_group(connections, program) for program in PROGRAMS))
    with AdminClient(connections.kafka(), logger=kafka.LOG) as admin:
        name = log_identity(connections, admin, deadline)
        asked = admin.describe_consumer_groups(groups, request_timeout=_left(deadline))
        described = {group: _described(connections, answer, group) for group, answer in asked.items()}
        committed = {
            group: _committed(connections, admin, group, deadline)
            for group in (_group(connections, COMMAND_SERVICE), _group(connections, ACTIVITY))
        }
    return _Log(name, ends, described, committed)


def _described(connections: Connections, answer: Future[ConsumerGroupDescription], group: str) -> _Group:
    try:
        found = answer.result()
    except KafkaException as error:
        if error.args[0].code() in _NO_GROUP:
            return _Group(State.STOPPED, {})
        raise kafka.unreachable(connections, f"group {group} cannot be described: {error.args[0].str()}") from error
    members = {
        (place.topic, place.partition): f"{member.client_id}@{member.host.lstrip('/')}"
        for member in found.members
        for place in member.assignment.topic_partitions
    }
    match found.state:
        case ConsumerGroupState.STABLE:
            return _Group(State.RUNNING, members)
        case ConsumerGroupState.EMPTY | ConsumerGroupState.DEAD:
            return _Group(State.STOPPED, {})
        case ConsumerGroupState.UNKNOWN:
            return _Group(State.UNKNOWN, members)
        case _:
            return _Group(State.REBALANCING, members)


def _committed(
    connections: Connections, admin: AdminClient, group: str, deadline: float
) -> Mapping[tuple[str, int], int]:
    asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)], request_timeout=_left(deadline))
    try:
        found: Sequence[TopicPartition] = asked[group].result().topic_partitions
    except KafkaException as error:
        if error.args[0].code() in _NO_GROUP:
            return {}
        raise kafka.unreachable(connections, f"group {group} has no offsets for us: {error.args[0].str()}") from error
    return {(at.topic, at.partition): at.offset for at in found if at.offset >= 0}


def _behind(
    connections: Connections, topic: str, offsets: Mapping[int, int], ends: Mapping[int, int], timeout_s: float
) -> Mapping[int, float | None]:
    """For each partition how old the first record is that has not been read. Raises: `Unreachable`."""
    behind: dict[int, float | None] = dict.fromkeys(ends, 0.0)
    begin = {p: offsets.get(p, 0) for p, end in ends.items() if offsets.get(p, 0) < end}
    if begin:
        found = first_unread(connections, topic, begin, timeout_s=timeout_s)
        behind |= dict.fromkeys(begin)
        behind |= {p: 0.0 if unread is None else unread.age_s for p, unread in found.items()}
    return behind


def _wording(error: Exception) -> str:
    return f"unreachable: {error}" if isinstance(error, Unreachable) else str(error)


def _left(deadline: float) -> float:
    return max(kafka.LEAST_S, deadline - time.monotonic())
