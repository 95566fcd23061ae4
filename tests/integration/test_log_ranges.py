"""Reading ranges of the log, one after the other through one consumer."""

from __future__ import annotations

from collections.abc import Callable

from daybook.log import LogRanges
from deploy.definitions import apply
from schemas.connections import Connections
from schemas.events import AccountFrozen
from tests.conftest import PARTITIONS
from tests.event_log import Log
from tests.recorded import recorded


def test_a_partition_can_be_read_again_and_again(new_connections: Callable[[], Connections]) -> None:
    # While a partition was paused at the end of each range, to be resumed for the next one, one in some thousands of
    # ranges never came: librdkafka had lost what it was told in between.
    connections = new_connections()
    apply(connections, partitions=PARTITIONS)
    log = Log(connections)
    log.append([recorded(f"A-{number}", 1, AccountFrozen()) for number in range(100)])
    ends = log.ends()
    with LogRanges(connections, timeout_s=10) as ranges:
        for turn in range(500):
            partition = turn % PARTITIONS
            start = turn % ends[partition]
            offsets = [logged.offset for logged in ranges.read(partition, start, ends[partition])]
            assert offsets == list(range(start, ends[partition]))
