"""Asking the activity program, over HTTP, for the volumes and alerts that it keeps (docs/ACTIVITY.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

from pydantic import Field

from daybook.errors import Unreachable
from schemas.connections import EnvironmentSettings

SERVER: Final = "the activity program"

DEFAULT_PORT: Final = 16066
"""Where the program listens unless `DAYBOOK_ACTIVITY_PORT` says otherwise."""


class ActivitySettings(EnvironmentSettings):
    """Where the program serves its tables; it reads the same port."""

    activity_port: int = Field(default=DEFAULT_PORT, ge=1, le=65535)
    activity_url: str | None = None
    """For a program that runs elsewhere than on this machine."""

    @property
    def url(self) -> str:
        return self.activity_url or f"http://127.0.0.1:{self.activity_port}"


def ask(url: str, path: str, *, timeout_s: float) -> Mapping[str, Any]:
    """The JSON object at a path such as `/volume/minute?limit=10`.

    Raises: `Unreachable`, also when what answers is something else, or has no tables yet.
    """
    # It is on this machine, where no proxy could reach it.
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url + path, timeout=timeout_s) as response:
            found = json.load(response)
    except HTTPError as error:
        with error:
            raise Unreachable(SERVER, url, _refusal(error)) from error
    except (OSError, HTTPException, ValueError) as error:
        why = f"{getattr(error, 'reason', error)}; is it running (`daybook-projector activity`)?"
        raise Unreachable(SERVER, url, why) from error
    if not isinstance(found, dict):
        raise Unreachable(SERVER, url, f"{path} is not what it serves: is something else on this port?")
    return found


def _refusal(error: HTTPError) -> str:
    """What an answer that is an error says, such as that the tables are not there yet."""
    try:
        return f"{error.code}: {json.load(error)['message']}"
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}: is something else on this port?"
