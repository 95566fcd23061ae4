"""The end of a command's trace: its event is in a read model."""

from __future__ import annotations

from schemas.events import RecordedEvent
from schemas.telemetry.traces import Tracer


def show(
    tracer: Tracer, projector: str, event: RecordedEvent, partition: int, offset: int, above: bytes, began_us: int
) -> None:
    """A span for an event that became visible now, below the one that `above` names.

    `began_us` is when it was taken from the log, in microseconds since the Unix epoch.
    """
    tracer.begin(
        f"{projector} visible",
        "CONSUMER",
        above,
        since_us=began_us,
        messaging__system="kafka",
        messaging__destination__partition__id=str(partition),
        messaging__kafka__offset=offset,
        daybook__projector=projector,
        daybook__event=event.type_name,
        daybook__account_id=event.account_id,
        daybook__sequence=event.sequence,
        daybook__command_id=event.command_id,
        daybook__correlation_id=event.correlation_id,
    ).end()
