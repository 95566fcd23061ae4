"""One rebuild of a model at a time, on however many machines: whoever is alone in a consumer group may go on.

Kafka notices within seconds that a member is gone, however it ended, so nothing is left behind that would have to be
cleared. The lock keeps people from starting two by mistake; that two which run all the same cannot damage anything is
due to the copy's checkpoints.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from projectors.patience import Patience
from projectors.rebuilding import CannotRebuild
from schemas.connections import Connections
from schemas.telemetry.quiet import kafka_logger

_SESSION_TIMEOUT_MS: Final = 6_000
"""How long a killed rebuild stands in the way of the next one; the brokers' lower limit."""

_WAIT_S: Final = 25.0
"""Four times the session's time-out: by then those are gone that were killed one after the other, and the group has
settled after each. One that is still there is alive."""

_POLL_S: Final = 0.1
_ASK_TIMEOUT_S: Final = 5


class OneRebuild:
    """A context manager that is entered by one process at a time for a model of a ledger.

    Raises:
        CannotRebuild: another one is in it.
    """

    def __init__(self, connections: Connections, model: str, patience: Patience, say: Callable[[str], None]) -> None:
        self._model = model
        self._connections = connections
        self._group = connections.topics.projector_group(f"{model}.rebuild")
        self._patience = patience
        self._say = say
        self._left = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lock", daemon=True)

    def __enter__(self) -> Self:
        config = self._connections.kafka(
            group_id=self._group,
            client_id=f"daybook-rebuild-{self._model}",
            session_timeout_ms=_SESSION_TIMEOUT_MS,
            # Nothing is read: being a member is all.
            enable_auto_commit=False,
            auto_offset_reset="latest",
        )
        self._consumer = Consumer(config, logger=kafka_logger())
        try:
            self._consumer.subscribe(
                [self._connections.topics.events], on_assign=lambda consumer, _: consumer.assign([])
            )
            with AdminClient(self._connections.kafka(), logger=kafka_logger()) as admin:
                self._wait_until_alone(admin)
        except BaseException:
            self._consumer.close()
            raise
        self._keeper.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._left.set()
        self._keeper.join()
        self._consumer.close()

    def _wait_until_alone(self, admin: AdminClient) -> None:
        told = False
        deadline = time.monotonic() + _WAIT_S
        others = ""
        while time.monotonic() < deadline:
            self._patience.check()
            message = self._consumer.poll(_POLL_S)
            error = None if message is None else message.error()
            if error is not None and error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                raise CannotRebuild(
                    f"{self._connections.kafka_sasl_username} may not read in the consumer group {self._group}, by "
                    f"which only one rebuild of {self._model} runs at a time: rebuild as the projector of {self._model}"
                )
            me = self._consumer.memberid()
            if not me:
                continue
            try:
                found = admin.describe_consumer_groups([self._group], request_timeout=_ASK_TIMEOUT_S)
                members = found[self._group].result(_ASK_TIMEOUT_S).members
            except (KafkaException, TimeoutError) as error:
                # A coordinator that moves; the deadline bounds it, and what else is wrong shows in the end.
                others = f"the group's coordinator does not answer: {error}"
                continue
            if [member.member_id for member in members] == [me]:
                return
            others = ", ".join(f"{m.client_id} at {m.host}" for m in members if m.member_id != me)
            if others and not told:
                self._say(f"waiting for another rebuild of {self._model} to end: {others}")
                told = True
        if not self._consumer.memberid():
            raise CannotRebuild(
                f"Kafka did not take us into the consumer group {self._group} within {_WAIT_S:.0f} s, by which "
                f"only one rebuild of {self._model} runs at a time: see to it that the brokers answer and that we "
                "may read in that group, then run this again"
            )
        raise CannotRebuild(
            f"another rebuild of {self._model} is running ({others}): wait for it or stop it, then run this again"
        )

    def _keep(self) -> None:
        """Answer the group's coordinator, so that others find us there."""
        while not self._left.is_set():
            self._consumer.poll(_POLL_S * 5)
