"""A ledger's snapshots held against its events."""

from __future__ import annotations

from command_service.domain.account import evolve
from command_service.packing import Entry, Packing
from schemas.snapshots import MARK_KEY
from tests.wire import Wire, read_all


def check_snapshots(wire: Wire) -> int:
    """Every snapshot, superseded ones as well, is what the events up to its sequence give; returns how many marks."""
    streams = wire.events()
    marks = 0
    for message in read_all(wire.connections, wire.topics.snapshots):
        if message.key() == MARK_KEY:
            marks += message.value() is not None
            continue
        account_id = message.key().decode()
        snapshot = wire.codec.decode_snapshot(message.value())
        state, last = None, None
        for last in streams[account_id][: snapshot.sequence]:
            state = evolve(state, last.event)
        assert state is not None
        assert last is not None
        expected = Entry(state, last.chain_hash, last.recorded_at)
        assert Packing(wire.codec, snapshot.fingerprint, "").unpack(account_id, message.value()) == expected
    return marks
