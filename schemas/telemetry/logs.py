"""How every process of ours logs: lines for people, or one JSON object a line.

Modules log by the standard library's `logging`, as the libraries do that they use. What a line is about goes into
`extra`, which costs nothing where the level is off and becomes fields of the JSON: `topic`, `partition`, `offset`,
`account_id`, `command_id`, `correlation_id`.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

import structlog

from schemas.connections import LOG_FORMAT, EnvironmentSettings

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"

_CHATTY: Final = ("elastic_transport", "httpx", "httpx2", "httpcore", "urllib3")
"""Clients that log each request; what came of it is logged by ours where it matters."""

_log = logging.getLogger("daybook")


class LogSettings(EnvironmentSettings):
    """How lines look, for a program that has no settings of its own."""

    log_format: str = LOG_FORMAT


def set_up(
    service: str,
    level: str = "INFO",
    form: str | None = None,
    *,
    instance: str | None = None,
    text: str = _TEXT,
) -> None:
    """Have everything that this process logs go to stderr. May be called again when more is known.

    Args:
        service: what the JSON lines name as where they come from: `command-service`, `projector-search`.
        level: `DEBUG`, `INFO`, `WARNING` or `ERROR`.
        form: `text` or `json`; without it `DAYBOOK_LOG_FORMAT` decides, as before the settings are read.
        instance: tells processes of one service apart.
        text: the form of lines for people, in the standard library's terms.
    """
    handler = logging.StreamHandler(sys.stderr)
    if (form or os.environ.get("DAYBOOK_LOG_FORMAT")) == "json":
        about = {"service": service} | ({} if instance is None else {"instance": instance})
        handler.setFormatter(_json(about))
        sys.excepthook = _uncaught
        threading.excepthook = _uncaught_in_thread
    else:
        handler.setFormatter(logging.Formatter(text))
    root = logging.getLogger()
    for known in root.handlers[:]:
        root.removeHandler(known)
    root.addHandler(handler)
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _json(about: Mapping[str, str]) -> logging.Formatter:
    def describe(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
        record: logging.LogRecord = event["_record"]
        # In this order, for those who read them all the same. The line's own fields come last.
        return {
            "timestamp": _time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event.pop("event"),
            **about,
            **event,
        }

    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder()],
        processors=[
            describe,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str, ensure_ascii=False),
        ],
    )


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    _log.critical("ended by an error that nothing expected", exc_info=(kind, error, traceback))


def _uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
        name = "?" if args.thread is None else args.thread.name
        exc_info = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.critical("thread %s was ended by an error that nothing expected", name, exc_info=exc_info)
