"""How a projector runs: the environment variables of its own, beside `schemas.connections`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from schemas.connections import LOG_LEVEL, EnvironmentSettings


class ProjectorSettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_PROJECTOR_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_PROJECTOR_")

    batch_events: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most events to take at once: more make a replay faster, and cost about a kilobyte each."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where Prometheus finds the metrics, on loopback; none are served without it."""

    log_level: str = LOG_LEVEL
