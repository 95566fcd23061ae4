"""How a projector runs: the environment variables of its own, beside `schemas.connections`."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from schemas.connections import LOG_FORMAT, LOG_LEVEL, EnvironmentSettings
from schemas.telemetry.endpoint import METRICS_HOST


class ProjectorSettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_PROJECTOR_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_PROJECTOR_")

    batch_events: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most events to take at once: more make a replay faster, and cost about a kilobyte each."""

    rebuild_database: int | None = Field(default=None, ge=0)
    """The number of the Redis database in which balances are rebuilt; without it, the one after the live one's."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where metrics, health and readiness are served; nowhere without it. It is the port of `balances`; `search`,
    `analytics` and `activity` have the next three."""

    rebuild_metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """The same of a rebuild, while it runs."""

    metrics_host: str = METRICS_HOST

    log_level: str = LOG_LEVEL
    log_format: str = LOG_FORMAT


class AnalyticsSettings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_ANALYTICS_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_ANALYTICS_")

    commit_interval_s: float = Field(default=5.0, ge=0, le=3600)
    """How long events are gathered for one commit. Each leaves a file, a snapshot and some metadata; readers see an
    event so much later at most."""
