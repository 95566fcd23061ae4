"""How a command service runs: the environment variables of its own, beside `schemas.connections`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from schemas.connections import LOG_FORMAT, LOG_LEVEL, EnvironmentSettings
from schemas.telemetry.endpoint import METRICS_HOST


class Settings(EnvironmentSettings):
    """A field `x` is the environment variable `DAYBOOK_COMMAND_SERVICE_X`."""

    model_config = SettingsConfigDict(env_prefix="DAYBOOK_COMMAND_SERVICE_")

    instance: str = Field("0", pattern=r"[A-Za-z0-9_-]{1,64}")
    """The stable ordinal of this instance. A restarted instance fences what its predecessor left open; two that run at
    once must differ, or they fence each other."""

    instances_dir: Path | None = None
    """A folder that the instances of one machine share: each takes the lowest number that is free there, whatever
    `instance` says."""

    batch: int = Field(5_000, ge=1, le=100_000)
    """The most commands in one transaction. A batch is what is there, so a lone command does not wait for others."""

    max_command_bytes: int = Field(64 * 1024, ge=1024, le=1024 * 1024)
    """A larger command is parked unread."""

    remembered_hours: float = Field(24, gt=0)
    """How long a command id is remembered. It is restored from the replies topic, whose retention must be as long."""

    remembered_per_partition: int = Field(200_000, ge=1)
    """The most command ids remembered for a partition, some 300 bytes each; the oldest are forgotten first."""

    remembered_mb_per_partition: int = Field(128, ge=1)
    """The most memory for them, in MiB, should replies be longer than usual."""

    snapshot_every: int = Field(50_000, ge=1)
    """Snapshots of a partition's changed accounts are written each time that so many events were added to it. A restore
    reads about as many events, a partition."""

    snapshots: Literal["use", "ignore"] = "use"
    """`ignore` restores the state from the events alone, and writes all snapshots anew."""

    snapshots_checked: int = Field(1_000, ge=0)
    """One account in so many is held against its events whenever it is snapshotted; 0: none is."""

    decoded_accounts: int = Field(100_000, ge=1)
    """The most accounts that are held ready to be decided on, some 700 bytes each; the others are held packed."""

    held_accounts: int = Field(2_000_000, ge=1)
    """The most accounts in memory, some 300 bytes each; those that were not used for longest are spilled to the disk.
    As `decoded_accounts`, it is shared out among the partitions of the process."""

    spill_dir: Path | None = None
    """Where to spill to, if not to the system's folder for temporary files: a local disk with some hundred bytes an
    account. What is there is made anew by each process, and removed at its end."""

    metrics_port: int | None = Field(None, ge=1, le=65535)
    """Where metrics, health and readiness are served, if anywhere."""

    metrics_host: str = METRICS_HOST

    log_level: str = LOG_LEVEL
    log_format: str = LOG_FORMAT
