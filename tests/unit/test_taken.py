"""What a transaction commits of what was read."""

from __future__ import annotations

from confluent_kafka import Message

from command_service.assignment import Place, Taken

COMMANDS: Place = ("account.commands", 0)
FOLLOW_UPS: Place = ("account.followups", 0)
OTHERS: Place = ("account.followups", 1)


def taken(*records: tuple[Place, int], passed: dict[Place, int]) -> Taken:
    return Taken([(place, offset, Message(*place, offset)) for place, offset in records], passed, None)


def test_of_each_place_the_furthest_is_committed() -> None:
    read = [(COMMANDS, 4), (FOLLOW_UPS, 7), (COMMANDS, 5)]
    assert taken(*read, passed={}).offsets(3) == {COMMANDS: 6, FOLLOW_UPS: 8}
    assert taken(*read, passed={FOLLOW_UPS: 7}).offsets(3) == {COMMANDS: 6, FOLLOW_UPS: 8}
    assert taken(*read, passed={FOLLOW_UPS: 9}).offsets(3) == {COMMANDS: 6, FOLLOW_UPS: 9}
    assert taken(passed={FOLLOW_UPS: 9}).offsets(0) == {FOLLOW_UPS: 9}


def test_nothing_is_committed_behind_a_record_that_is_not_decided() -> None:
    """As where its schema is not known and the registry is away: the follow-ups passed over may stand behind it."""
    read = [(COMMANDS, 4), (FOLLOW_UPS, 7), (COMMANDS, 5)]
    assert taken(*read, passed={FOLLOW_UPS: 9}).offsets(1) == {COMMANDS: 5}
    assert taken(*read, passed={FOLLOW_UPS: 9}).offsets(0) == {}
    assert taken(*read, passed={FOLLOW_UPS: 9, OTHERS: 3}).offsets(1) == {COMMANDS: 5, OTHERS: 3}
