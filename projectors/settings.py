"""How a projector runs, from the environment. Where the servers are is in `schemas.connections`."""

from __future__ import annotations

import os

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from schemas.connections import DEFAULT_ENV_FILE, NotConfigured


class ProjectorSettings(BaseSettings):
    """A field `x` is the environment variable `DAYBOOK_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_", env_file=None, extra="ignore", frozen=True)

    projector_batch_events: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most events to take at once: more make a replay faster, and cost about a kilobyte each."""

    metrics_port: int | None = Field(default=None, ge=1, le=65535)
    """Where Prometheus finds the metrics, on loopback; none are served without it."""

    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def from_environment(cls) -> ProjectorSettings:
        """Read the environment and the dotenv file.

        Raises:
            NotConfigured: naming each variable that is wrong.
        """
        try:
            return cls(_env_file=os.environ.get("DAYBOOK_ENV_FILE", DEFAULT_ENV_FILE))
        except ValidationError as error:
            wrong = "; ".join(f"DAYBOOK_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
            raise NotConfigured(wrong) from None
