"""The rules for schemas that go together, against the Avro library's own opinion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from hypothesis import event, given, settings
from hypothesis import strategies as st

from schemas.compatibility import lost, unreadable
from schemas.samples import misfit, samples, unresolved

Schema = dict[str, Any]

SYMBOLS: Final = ("U", "A", "B", "C")
PRIMITIVES: Final = st.sampled_from(["int", "long", "string", "boolean", "double", "float"])


@st.composite
def enums(draw: st.DrawFn) -> Schema:
    symbols = draw(st.lists(st.sampled_from(SYMBOLS), min_size=1, unique=True))
    default = {"default": symbols[0]} if draw(st.booleans()) else {}
    return {"type": "enum", "name": "E", "symbols": symbols, **default}


def fixed(size: int) -> Schema:
    return {"type": "fixed", "name": "F", "size": size}


KINDS: Final[st.SearchStrategy[Any]] = st.one_of(
    PRIMITIVES,
    PRIMITIVES.map(lambda kind: ["null", kind]),
    enums(),
    st.sampled_from((4, 8)).map(fixed),
    PRIMITIVES.map(lambda kind: {"type": "array", "items": kind}),
)


@st.composite
def records(draw: st.DrawFn) -> Schema:
    """Records of one name, whose fields differ in which there are, their types and whether they have a default."""
    fields = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        kind = draw(KINDS)
        if isinstance(kind, dict) and "name" in kind:
            # Names of types are unique within a record.
            kind = {**kind, "name": f"{kind['name']}_{name}"}
        default = {}
        if draw(st.booleans()):
            sample = next(samples({"fields": [{"name": name, "type": kind}]}))[name]
            default = {"default": sample.decode("latin-1") if isinstance(sample, bytes) else sample}
        fields.append({"name": name, "type": kind, **default})
    return {"type": "record", "name": "R", "namespace": "n", "fields": fields}


@settings(max_examples=300)
@given(records(), records())
def test_the_rules_and_the_library_agree(written: Schema, read_as: Schema) -> None:
    reasons, library = list(unreadable(written, read_as)), unresolved(written, read_as)
    event(f"goes together: {library is None}")
    assert (reasons == []) == (library is None), (reasons, library)


@given(records())
def test_samples_fit_their_schema_and_a_schema_goes_with_itself(schema: Schema) -> None:
    found = list(samples(schema))
    assert found != []
    assert [misfit(schema, record) for record in found] == [None] * len(found)
    assert list(unreadable(schema, schema)) == []
    assert list(lost(schema, schema)) == []


def test_samples_have_every_symbol_and_branch() -> None:
    kinds = {"a": {"type": "enum", "name": "E", "symbols": list(SYMBOLS)}, "b": ["null", "long"]}
    found = list(samples({"fields": [{"name": name, "type": kind} for name, kind in kinds.items()]}))
    assert [record["a"] for record in found] == list(SYMBOLS)
    assert {record["b"] for record in found} == {None, 1, 250}


def test_what_is_lost_within_nested_records_is_found() -> None:
    def holding(wrap: Callable[[Schema], Any], *names: str) -> Schema:
        inner = {"type": "record", "name": "I", "fields": [{"name": n, "type": "long", "default": 0} for n in names]}
        return {"type": "record", "name": "R", "fields": [{"name": "f", "type": wrap(inner)}]}

    wraps: list[Callable[[Schema], Any]] = [
        lambda inner: inner,
        lambda inner: ["null", inner],
        lambda inner: {"type": "array", "items": inner},
        lambda inner: {"type": "map", "values": inner},
    ]
    for wrap in wraps:
        (why,) = lost(holding(wrap, "a", "b"), holding(wrap, "a"))
        assert why.startswith("field f has records whose field b is gone")
        assert list(lost(holding(wrap, "a"), holding(wrap, "a", "b"))) == []
