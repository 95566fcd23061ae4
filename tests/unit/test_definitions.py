"""What is wanted of topics, subjects and search indices, and how what is found is compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import pytest

from deploy.brokers import FoundCluster, FoundTopic, compared
from deploy.definitions import refuse
from deploy.differences import (
    CompatibilityDiffers,
    Difference,
    IncompatibleSchema,
    IndexFieldDiffers,
    IndexLacksField,
    MissingTopic,
    PartitionCountDiffers,
    ReplicationDiffers,
    TopicConfigDiffers,
)
from deploy.elasticsearch import index_differs, template_differs
from deploy.errors import Refused
from deploy.indices import PRIORITY, TemplateDefinition, template_definitions
from deploy.wanted import TopicDefinition, subject_definitions, topic_definitions
from projectors.search_documents import AccountDocument, EventDocument
from schemas.readmodels import CHECKPOINT_FIELD, Indices
from schemas.released import released
from schemas.topics import Topics

TOPICS = Topics("eu")
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS

WANTED = TopicDefinition("eu.t", 6, {"cleanup.policy": "compact"}, accounts_live_here=True)
AS_WANTED = {"cleanup.policy": "compact", "min.insync.replicas": "1"}


def definition(name: str) -> TopicDefinition:
    return next(topic for topic in topic_definitions(TOPICS, 6) if topic.name == name)


def differences(found: FoundTopic | None, brokers: int = 1, replication: int | None = None) -> Sequence[Difference]:
    topics = {} if found is None else {WANTED.name: found}
    return list(compared([WANTED], FoundCluster(brokers, topics), replication))


def test_every_topic_of_the_contract_is_defined_with_the_same_count_but_for_the_one_row_of_checkpoints() -> None:
    found = {topic.name: topic.partitions for topic in topic_definitions(TOPICS, 12)}
    assert found.pop("eu.account.checkpoints") == 1
    assert found == dict.fromkeys(
        [
            "eu.account.commands",
            "eu.account.followups",
            "eu.account.events",
            "eu.account.snapshots",
            "eu.account.replies",
            "eu.account.alerts",
            "eu.account.parked",
            "eu.subject.keys",
        ],
        12,
    )


@pytest.mark.parametrize(
    ("topic", "retention_ms"),
    [
        (TOPICS.commands, DAY_MS),
        (TOPICS.followups, 7 * DAY_MS),
        (TOPICS.replies, DAY_MS),
    ],
)
def test_what_is_passed_on_is_deleted_by_age(topic: str, retention_ms: int) -> None:
    configs = definition(topic).configs
    assert configs["cleanup.policy"] == "delete"
    assert configs["retention.ms"] == str(retention_ms)
    assert int(configs["segment.ms"]) < retention_ms


@pytest.mark.parametrize("topic", [TOPICS.events, TOPICS.snapshots, TOPICS.subject_keys])
def test_what_is_kept_is_compacted_and_never_deleted_by_age_or_size(topic: str) -> None:
    configs = definition(topic).configs
    assert (configs["cleanup.policy"], configs["retention.ms"], configs["retention.bytes"]) == ("compact", "-1", "-1")


def test_checkpoints_are_kept_for_ever_each_of_them() -> None:
    configs = definition(TOPICS.checkpoints).configs
    assert (configs["cleanup.policy"], configs["retention.ms"], configs["retention.bytes"]) == ("delete", "-1", "-1")


def test_alerts_that_are_given_again_are_compacted_and_old_ones_deleted() -> None:
    configs = definition(TOPICS.alerts).configs
    assert configs["cleanup.policy"] == "compact,delete"
    assert int(configs["segment.ms"]) < int(configs["retention.ms"]) == 90 * DAY_MS


@pytest.mark.parametrize("topic", [TOPICS.subject_keys, TOPICS.parked])
def test_what_a_tombstone_erases_leaves_the_disk_soon(topic: str) -> None:
    configs = definition(topic).configs
    # A segment is closed, cleaned and deleted one after the other; the cleaner looks for work every 15 s by default.
    stages = ("segment.ms", "max.compaction.lag.ms", "file.delete.delay.ms")
    assert sum(int(configs[name]) for name in stages) + 15_000 <= 5 * 60_000
    # By two clocks, the key of an account that was opened just now could stay for as long as they differ.
    assert configs["message.timestamp.type"] == "LogAppendTime"
    # Whoever was away must find the tombstone.
    assert int(configs["delete.retention.ms"]) == 7 * DAY_MS


def test_parked_records_are_erased_one_by_one_and_deleted_by_age() -> None:
    configs = definition(TOPICS.parked).configs
    assert (configs["cleanup.policy"], configs["retention.ms"]) == ("compact,delete", str(30 * DAY_MS))
    # A segment is deleted by its newest record, and cleaning joins them: the largest one bounds what stays for longer.
    assert int(configs["max.message.bytes"]) < int(configs["segment.bytes"]) <= 4 * 1024 * 1024


def test_a_key_lives_where_its_account_lives() -> None:
    assert definition(TOPICS.subject_keys).accounts_live_here


def test_whatever_fits_on_the_commands_topic_can_be_parked_with_its_reason() -> None:
    commands, parked = definition(TOPICS.commands).configs, definition(TOPICS.parked).configs
    assert int(parked["max.message.bytes"]) >= int(commands["max.message.bytes"]) + 64 * 1024


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_writers_never_wait_for_more_replicas_than_a_restart_leaves(replication: int, in_sync: str) -> None:
    assert WANTED.configs_at(replication)["min.insync.replicas"] == in_sync


def test_every_released_schema_has_its_subject() -> None:
    subjects = subject_definitions(TOPICS)
    assert [schema for subject in subjects for schema in subject.versions] == list(released())
    names = [subject.name for subject in subjects]
    assert len(set(names)) == len(names)
    assert "eu.account.commands-daybook.account.command.Deposit" in names
    assert "eu.account.events-daybook.account.event.MoneyDeposited" in names
    assert "eu.account.replies-daybook.account.CommandReply" in names
    assert "eu.account.alerts-daybook.account.Alert" in names
    assert "eu.subject.keys-daybook.subject.SubjectKey" in names


def test_a_topic_as_wanted_does_not_differ() -> None:
    assert differences(FoundTopic(6, 1, {**AS_WANTED, "segment.bytes": "1024"})) == []


@pytest.mark.parametrize(
    ("brokers", "asked", "replication"), [(1, None, 1), (2, None, 2), (3, None, 3), (5, None, 3), (5, 5, 5), (3, 1, 1)]
)
def test_a_missing_topic_gets_up_to_three_replicas_or_what_is_asked(
    brokers: int, asked: int | None, replication: int
) -> None:
    assert differences(None, brokers, asked) == [MissingTopic(WANTED, replication)]


def test_a_setting_that_differs_is_named_with_both_values() -> None:
    (difference,) = differences(FoundTopic(6, 1, {**AS_WANTED, "cleanup.policy": "delete"}))
    assert difference == TopicConfigDiffers("eu.t", "cleanup.policy", "delete", "compact")
    assert difference.problem == "topic eu.t: cleanup.policy is delete, wanted compact"


def test_a_partition_count_that_differs_says_why_it_cannot_change() -> None:
    (difference,) = differences(FoundTopic(4, 1, AS_WANTED))
    assert difference == PartitionCountDiffers("eu.t", 4, 6, accounts_live_here=True)
    assert "eu.t has 4 partitions, wanted 6" in difference.problem
    assert "accounts would move to other partitions" in difference.problem


@pytest.mark.parametrize(
    ("found", "brokers", "asked", "wanted"),
    [
        (1, 3, None, 3),  # brokers were added since
        (3, 2, None, None),  # one broker is down
        (3, 3, 2, 2),
        (2, 2, 2, None),
    ],
)
def test_replication_is_compared(found: int, brokers: int, asked: int | None, wanted: int | None) -> None:
    configs = WANTED.configs_at(found)
    expected = [] if wanted is None else [ReplicationDiffers("eu.t", found, wanted)]
    assert differences(FoundTopic(6, found, configs), brokers, asked) == expected


def test_all_that_cannot_be_put_right_is_refused_at_once() -> None:
    schema = released()[0]
    with pytest.raises(Refused, match=r"(?s)eu\.t has 4 .*subject s: v1 .*Nothing was changed"):
        refuse(
            [
                CompatibilityDiffers("s", None),
                PartitionCountDiffers("eu.t", 4, 6, accounts_live_here=True),
                IncompatibleSchema("s", schema),
            ]
        )
    refuse([CompatibilityDiffers("s", None), ReplicationDiffers("eu.t", 1, 3)])


ACCOUNTS, ACCOUNT_EVENTS = template_definitions(Indices("eu"))


def as_elasticsearch_has(wanted: TemplateDefinition, **changed: object) -> dict[str, object]:
    return {
        "index_patterns": [wanted.pattern],
        "priority": PRIORITY,
        "allow_auto_create": False,
        "composed_of": [],
        "template": {"settings": dict(wanted.settings), "mappings": dict(wanted.mappings)},
        **changed,
    }


def test_the_templates_are_for_the_indices_of_one_alias_of_one_ledger() -> None:
    patterns = [template.pattern for template in (ACCOUNTS, ACCOUNT_EVENTS, *template_definitions(Indices()))]
    assert patterns == ["eu.accounts-*", "eu.account-events-*", "accounts-*", "account-events-*"]
    for index in ("accounts-000001", "account-events-000001", "eu.accounts-000001", "eu.account-events-000001"):
        assert sum(fnmatchcase(index, pattern) for pattern in patterns) == 1


@pytest.mark.parametrize(
    ("template", "document"), [(ACCOUNTS, AccountDocument), (ACCOUNT_EVENTS, EventDocument)], ids=["accounts", "events"]
)
def test_there_is_a_mapping_for_each_field_that_the_projector_writes(
    template: TemplateDefinition, document: type[AccountDocument] | type[EventDocument]
) -> None:
    assert {*document.__struct_fields__, CHECKPOINT_FIELD} == template.properties.keys()


def test_a_template_as_wanted_does_not_differ_and_may_have_settings_of_an_operator() -> None:
    settings = {**ACCOUNTS.settings, "index.number_of_shards": "3", "index.codec": "best_compression"}
    template = {"settings": settings, "mappings": dict(ACCOUNTS.mappings)}
    assert template_differs(ACCOUNTS, as_elasticsearch_has(ACCOUNTS, template=template)) == ()


@pytest.mark.parametrize(
    ("changed", "differing"),
    [
        ({"index_patterns": ["*"]}, ["index_patterns"]),
        ({"priority": 1}, ["priority"]),
        ({"allow_auto_create": True}, ["allow_auto_create"]),
        ({"composed_of": ["theirs"]}, ["composed_of"]),
        (
            {"template": {"mappings": dict(ACCOUNTS.mappings), "aliases": {"all": {}}}},
            ["aliases", *(f"setting {name}" for name in ACCOUNTS.settings)],
        ),
        (
            {
                "template": {
                    "settings": dict(ACCOUNTS.settings),
                    "mappings": {
                        "dynamic": "true",
                        "properties": {
                            **{name: field for name, field in ACCOUNTS.properties.items() if name != "sequence"},
                            "status": {"type": "text"},
                            "theirs": {"type": "long"},
                        },
                    },
                }
            },
            ["mappings.dynamic", "field sequence", "field status", "field theirs"],
        ),
    ],
)
def test_what_differs_in_a_template_is_named(changed: dict[str, object], differing: list[str]) -> None:
    assert template_differs(ACCOUNTS, as_elasticsearch_has(ACCOUNTS, **changed)) == tuple(differing)


def test_an_index_is_compared_field_by_field() -> None:
    found = {
        **{name: field for name, field in ACCOUNTS.properties.items() if name != "closed_at"},
        "holder_name": {"type": "text"},
        "balance_minor": {"type": "keyword"},
        "theirs": {"type": "long"},
    }
    holder_name = ACCOUNTS.properties["holder_name"]
    differences = list(index_differs("eu.accounts-000001", ACCOUNTS.properties, found))
    assert differences == [
        IndexLacksField("eu.accounts-000001", "holder_name.keyword", holder_name),
        IndexLacksField("eu.accounts-000001", "holder_name.sort", holder_name),
        IndexFieldDiffers("eu.accounts-000001", "balance_minor", {"type": "keyword"}, {"type": "long"}),
        IndexLacksField("eu.accounts-000001", "closed_at", {"type": "date"}),
    ]
    assert differences[2].problem == (
        "index eu.accounts-000001: field balance_minor is type keyword, wanted type long (left as it is: `daybook "
        "rebuild search` makes a new index)"
    )
    # Only the whole field can be added.
    (lacking,) = index_differs("i", {"holder_name": holder_name}, {})
    assert lacking == IndexLacksField("i", "holder_name", holder_name)
