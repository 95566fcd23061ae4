"""librdkafka's own log lines, at a rate that people can read."""

from __future__ import annotations

import logging
from typing import Final

_PAUSE_S: Final = 30.0
"""librdkafka tells of each attempt to connect, several a second; twice a minute says as much."""


class Sparing(logging.Filter):
    """Lets one line of a kind through, then none of that kind for a while.

    The client gives its lines a format and, as the first argument, their kind: `FAIL`, `SESSTMOUT` and the like.
    """

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.args[0] if isinstance(record.args, tuple) and record.args else record.msg
        kind = (record.levelno, str(said))
        if record.created - self._told.get(kind, float("-inf")) < _PAUSE_S:
            return False
        self._told[kind] = record.created
        return True


def kafka_logger() -> logging.Logger:
    """The logger to give to Kafka clients."""
    logger = logging.getLogger("kafka")
    if not any(isinstance(known, Sparing) for known in logger.filters):
        logger.addFilter(Sparing())
    return logger
