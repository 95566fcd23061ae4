"""How much of librdkafka's logging is let through."""

from __future__ import annotations

import logging

from schemas.telemetry.quiet import Sparing, kafka_logger


def line(kind: str, at: float, level: int = logging.ERROR) -> logging.LogRecord:
    record = logging.LogRecord("kafka", level, __file__, 1, "%s [%s] %s", (kind, "client-1", f"at {at}"), None)
    record.created = at
    return record


def test_a_kind_of_line_is_told_twice_a_minute() -> None:
    sparing = Sparing()
    told = [at for at in range(100) if sparing.filter(line("FAIL", float(at)))]
    assert told == [0, 30, 60, 90]


def test_another_kind_or_level_is_told_as_well() -> None:
    sparing = Sparing()
    assert sparing.filter(line("FAIL", 0.0))
    assert sparing.filter(line("SESSTMOUT", 0.0))
    assert sparing.filter(line("FAIL", 0.0, logging.INFO))
    assert not sparing.filter(line("FAIL", 1.0))


def test_the_logger_has_the_filter_once() -> None:
    assert [type(known) for known in kafka_logger().filters] == [Sparing]
    assert [type(known) for known in kafka_logger().filters] == [Sparing]
