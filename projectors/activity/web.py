"""The tables over HTTP: JSON for `daybook activity` and whoever asks, as docs/ACTIVITY.md describes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import web

from projectors.activity.app import HOUR_S, HOURS_KEPT_S, MINUTE_S, MINUTES_KEPT_S, Activity
from projectors.activity.volumes import Range, Volume, VolumeKey
from projectors.progress import Progress, State
from schemas.connections import NotConfigured
from schemas.money import format_amount

_LIMIT: Final = 1000
"""Most windows or alerts in one answer."""

_WINDOWS: Final = 60
_ALERTS: Final = 20
"""How many there are unless asked otherwise."""


class Server:
    """Serves one activity, which is known once the log is. An async context manager; all runs in the event loop."""

    def __init__(self, host: str, port: int, progress: Progress) -> None:
        self._host = host
        self._port = port
        self._progress = progress
        self.activity: Activity | None = None
        application = web.Application()
        application.add_routes(
            [
                web.get("/volume/minute", self._minutes),
                web.get("/volume/hour", self._hours),
                web.get("/alerts/recent", self._alerts),
                web.get("/health", self._health),
            ]
        )
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def __aenter__(self) -> Server:
        """Raises `NotConfigured` when the port cannot be listened on."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise NotConfigured(
                f"DAYBOOK_ACTIVITY_PORT: port {self._port} of {self._host} cannot be listened on: {error.strerror}"
            ) from error
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _minutes(self, request: web.Request) -> web.Response:
        limit = _limit(request, _WINDOWS)
        activity = self._ready()
        found = activity.volumes(activity.minutes)
        return _json(volumes(found, _now(), MINUTE_S, MINUTE_S, MINUTES_KEPT_S, limit))

    async def _hours(self, request: web.Request) -> web.Response:
        limit = _limit(request, _WINDOWS)
        activity = self._ready()
        found = activity.volumes(activity.hours)
        return _json(volumes(found, _now(), HOUR_S, activity.hour_step_s, HOURS_KEPT_S, limit))

    async def _alerts(self, request: web.Request) -> web.Response:
        limit = _limit(request, _ALERTS)
        kept = self._ready().recent_alerts()[:limit]
        return _json({"as_of": _time(_now()), "alerts": [_shown(alert) for alert in kept]})

    async def _health(self, _: web.Request) -> web.Response:
        running = self._progress.state is State.RUNNING
        partitions = [
            {
                "partition": reached.partition,
                "position": reached.position,
                "end": reached.end,
                "lag": reached.lag,
                "recorded_at": None if reached.recorded_at is None else _time(reached.recorded_at / 1_000_000),
            }
            for reached in self._progress.partitions
        ]
        answer = {"state": self._progress.state, "reason": self._progress.reason, "partitions": partitions}
        return _json(answer, status=200 if running else 503)

    def _ready(self) -> Activity:
        if self.activity is None or self._progress.state is State.STARTING:
            raise web.HTTPServiceUnavailable(
                text=json.dumps({"error": "starting", "message": "the tables are not there yet: ask again"}),
                content_type="application/json",
            )
        return self.activity


def volumes(
    found: Iterable[tuple[VolumeKey, Range, Volume]], now_s: float, size_s: int, step_s: int, kept_s: int, limit: int
) -> Mapping[str, Any]:
    """The answer for one table: the newest `limit` windows that anything happened in, the newest first."""
    totals: dict[int, dict[tuple[str, str], tuple[int, int]]] = {}
    for key, (start, _), volume in found:
        if start >= now_s - kept_s:
            window = totals.setdefault(int(start), {})
            count, amount_minor = window.get((key.currency, key.event_type), (0, 0))
            window[key.currency, key.event_type] = (count + volume.events, amount_minor + volume.amount_minor)
    windows = [
        {
            "start": _time(start),
            "end": _time(start + size_s),
            "volumes": [
                {
                    "currency": currency,
                    "event_type": event_type,
                    "count": count,
                    "amount_minor": amount_minor,
                    "amount": format_amount(amount_minor, currency),
                }
                for (currency, event_type), (count, amount_minor) in sorted(totals[start].items())
            ],
        }
        for start in sorted(totals, reverse=True)[:limit]
    ]
    return {"as_of": _time(now_s), "window_s": size_s, "step_s": step_s, "windows": windows}


def _shown(alert: Mapping[str, Any]) -> Mapping[str, Any]:
    return {
        **alert,
        "amount": format_amount(alert["amount_minor"], alert["currency"]),
        "raised_at": _time(alert["raised_at"] / 1_000_000),
        "first_at": _time(alert["first_at"] / 1_000_000),
    }


def _limit(request: web.Request, default: int) -> int:
    given = request.query.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and len(given) < 6 and 1 <= int(given) <= _LIMIT):
        raise web.HTTPBadRequest(
            text=json.dumps({"error": "wrong_limit", "message": f"limit is a number from 1 to {_LIMIT}"}),
            content_type="application/json",
        )
    return int(given)


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _time(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")


def _json(answer: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.json_response(answer, status=status)
