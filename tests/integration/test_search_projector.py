"""The search projector as a process, from the real log to a real Elasticsearch."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest

from schemas.connections import Connections
from schemas.events import AccountFrozen, HolderChanged, RecordedEvent
from schemas.topics import partition_of
from tests.event_log import Log
from tests.processes import Process, environment, until
from tests.recorded import deposited, opened, recorded
from tests.search_model import SearchModel

Start = Callable[..., Process]


@pytest.fixture
def log(deployed: Connections) -> Log:
    return Log(deployed)


@pytest.fixture
def model(deployed: Connections) -> Iterator[SearchModel]:
    with SearchModel(deployed) as model:
        yield model


@pytest.fixture
def projector(start: Start, deployed: Connections) -> Callable[[], Process]:
    return lambda: start("projectors", "search", env=environment(deployed))


def histories(accounts: int, events: int, first: int = 1) -> list[RecordedEvent]:
    """As many events as asked for of each account, account after account in turn."""
    return [event(f"A-{account}", sequence) for sequence in range(first, first + events) for account in range(accounts)]


def event(account_id: str, sequence: int) -> RecordedEvent:
    match sequence % 5:
        case _ if sequence == 1:
            return opened(account_id)
        case 3:
            return recorded(account_id, sequence, HolderChanged(holder_name=f"Ada {sequence}"))
        case 4:
            return recorded(account_id, sequence, AccountFrozen())
        case _:
            return deposited(account_id, sequence, sequence * 100)


def placed(events: Sequence[RecordedEvent], partitions: int) -> list[tuple[RecordedEvent, int, int]]:
    """Events with the places that `Log.append` gives them, when nothing else is in the log."""
    ends = dict.fromkeys(range(partitions), 0)
    log = []
    for item in events:
        partition = partition_of(item.account_id, partitions)
        log.append((item, partition, ends[partition]))
        ends[partition] += 1
    return log


def test_the_log_becomes_documents_and_a_stop_is_clean(
    log: Log, model: SearchModel, projector: Callable[[], Process]
) -> None:
    earlier, later = histories(50, 6), histories(50, 3, first=7)
    log.append(earlier)
    process = projector()
    model.become(placed(earlier, log.partitions))
    log.append(later)
    model.become(placed(earlier + later, log.partitions))
    assert process.stop() == 0
    ends = log.ends()
    assert model.checkpoints(log.partitions) == {p: dict.fromkeys(model.aliases, end) for p, end in ends.items()}
    assert process.output.count("elastic_transport") == 0


def test_killed_at_random_times_and_robbed_of_indices_it_still_ends_as_the_fold(
    log: Log, model: SearchModel, projector: Callable[[], Process]
) -> None:
    chance = random.Random(7)
    events = histories(200, 15)
    log.append(events)
    process = projector()
    seen: dict[int, dict[str, int]] = {}
    for number in range(4):
        until(lambda seen=seen: model.checkpoints(log.partitions) != seen, "progress")
        process.kill()
        events += histories(200, 2, first=len(events) // 200 + 1)
        log.append(events[-400:])
        if number:
            model.wipe(chance.choice(model.aliases))
        seen = model.checkpoints(log.partitions)
        process.start()
    model.become(placed(events, log.partitions))
    # Without new events, too.
    model.wipe()
    model.become(placed(events, log.partitions))


def test_a_cluster_that_is_down_is_waited_for_and_a_stop_is_heard(
    log: Log, start: Start, deployed: Connections
) -> None:
    log.append(histories(3, 2))
    nowhere = environment(deployed, DAYBOOK_ELASTICSEARCH_URL="http://127.0.0.1:1")
    process = start("projectors", "search", env=nowhere)
    process.said("search stops for now: Elasticsearch: ")
    assert process.running()
    assert process.stop() == 0


def test_without_the_index_templates_it_says_what_to_do(
    start: Start, model: SearchModel, deployed: Connections
) -> None:
    for alias in model.aliases:
        model.client.indices.delete_index_template(name=f"daybook-{alias}")
    process = start("projectors", "search", env=environment(deployed))
    assert process.wait() == 1
    assert f"no index template for {model.indices.accounts}-*" in process.output
    assert "`daybook deploy apply` puts it" in process.output


def test_what_is_not_configured_is_named(start: Start, deployed: Connections) -> None:
    for name, value, said in (
        ("DAYBOOK_ELASTICSEARCH_URL", "here", "DAYBOOK_ELASTICSEARCH_URL: "),
        ("DAYBOOK_NAMESPACE", "Upper", "need a namespace in lower case"),
    ):
        process = start("projectors", "search", env=environment(deployed, **{name: value}))
        assert process.wait() == 2
        assert said in process.output


def test_a_running_model_is_rebuilt_and_rolled_back(
    log: Log, model: SearchModel, start: Start, projector: Callable[[], Process], deployed: Connections
) -> None:
    events = histories(30, 4)
    log.append(events)
    projector()
    model.become(placed(events, log.partitions))
    model.client.delete(index=model.indices.account_events, id="A-7/2", refresh=True)

    def rebuild(*arguments: str) -> None:
        process = start("projectors.rebuild", *arguments, env=environment(deployed))
        assert process.wait(60) == 0, process.output

    rebuild("build", "search", "--keep-old")
    model.become(placed(events, log.partitions))
    assert model.concrete(model.indices.accounts).endswith("-000002")
    events += histories(30, 1, first=5)
    log.append(events[-30:])
    model.become(placed(events, log.partitions))
    rebuild("rollback", "search")
    until(lambda: len(model.events()) == len(events) - 1 and "A-7/2" not in model.events(), "the old model, caught up")
    rebuild("build", "search")
    model.become(placed(events, log.partitions))
    assert [*model.client.indices.get(index=f"{model.indices.accounts}-*")] == [model.concrete(model.indices.accounts)]
