"""What a command service counts, in Prometheus' terms."""

from __future__ import annotations

from typing import Final

from prometheus_client import REGISTRY, Counter, Gauge, Histogram

from schemas.telemetry.latencies import LatencyHistogram

COMMANDS: Final = Counter(
    "daybook_commands_total",
    "Commands answered, by outcome and refusal code",
    ["outcome", "code"],
)
PARKED: Final = Counter("daybook_parked_total", "Records parked, by reason", ["reason"])
FORWARDED: Final = Counter("daybook_forwarded_total", "Commands that arrived on another partition than their account's")
FOLLOW_UPS: Final = Counter(
    "daybook_follow_ups_total", "Follow-up commands given to other accounts, by what they ask", ["command"]
)
PASSED_OVER: Final = Counter(
    "daybook_follow_ups_passed_over_total", "Follow-ups read that had been decided in the transaction that wrote them"
)
BATCH: Final = Histogram(
    "daybook_batch_commands",
    "Commands in one transaction, with the follow-ups decided in it",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000),
)
TRANSACTION: Final = Histogram("daybook_transaction_seconds", "From the beginning of a transaction to its commit")
ISSUED_TO_COMMITTED: Final = LatencyHistogram(
    "daybook_command_issued_to_committed_seconds",
    "From when the client issued a command, by its clock, to the commit of what came of it",
    registry=REGISTRY,
)
LAST_COMMIT: Final = Gauge("daybook_last_commit_timestamp_seconds", "When the last transaction was committed")
LAG: Final = Gauge(
    "daybook_command_lag_offsets",
    "Offsets of the commands and follow-ups topics that are left to read, by partition",
    ["partition"],
)
ABORTED: Final = Counter("daybook_transactions_aborted_total", "Transactions given up, to be decided again")
REBUILT: Final = Counter("daybook_producers_rebuilt_total", "Transactional producers replaced by a new one")
ACCOUNTS: Final = Gauge("daybook_accounts", "Accounts, by partition", ["partition"])
HELD: Final = Gauge(
    "daybook_accounts_held",
    "Accounts by how they are held: decoded or packed in memory, or spilled to the disk",
    ["partition", "form"],
)
SNAPSHOTS: Final = Counter("daybook_snapshots_written_total", "Snapshots of accounts written")
ROUNDS: Final = Counter("daybook_snapshot_rounds_total", "Rounds of snapshots that were finished with a restore mark")
RESTORED_SNAPSHOTS: Final = Counter("daybook_restored_snapshots_total", "Snapshots read to restore state")
RESTORED: Final = Counter("daybook_restored_events_total", "Events read to restore state")
RESTORE_LEFT: Final = Gauge(
    "daybook_restore_left_offsets", "Offsets that are left to read to restore a partition's state", ["partition"]
)
RESTORE_RATIO: Final = Gauge(
    "daybook_restore_progress_ratio", "How much of a partition's state is restored: 1 is all of it", ["partition"]
)
RESTORE_SECONDS: Final = Gauge("daybook_restore_seconds", "How long the last restore took")
FORGOTTEN: Final = Counter(
    "daybook_answers_forgotten_early_total",
    "Answers dropped before their time, since more commands came than are remembered",
)
EXPIRED: Final = Counter("daybook_commands_expired_total", "Commands that retention removed before they were read")
