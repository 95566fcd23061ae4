"""Trees as in RFC 6962: by the known answers of Certificate Transparency, and by the RFC's definition, written out."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.audit.merkle import (
    EMPTY_ROOT,
    PathFinder,
    Tree,
    leaf_hash,
    node_hash,
    path,
    root_by_path,
    root_of,
    siblings,
    subtrees,
)

# The leaves and answers that Certificate Transparency's implementations test themselves with.
LEAVES: Final = [
    leaf_hash(bytes.fromhex(data))
    for data in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS: Final = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS: Final = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}

SIZES: Final = st.integers(0, 70)


def leaves(size: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(size)]


def by_definition(data: list[bytes]) -> bytes:
    """RFC 6962, 2.1, over the leaves' hashes."""
    if not data:
        return sha256(b"").digest()
    if len(data) == 1:
        return data[0]
    k = 1
    while 2 * k < len(data):
        k *= 2
    return node_hash(by_definition(data[:k]), by_definition(data[k:]))


def path_by_definition(index: int, data: list[bytes]) -> list[bytes]:
    """RFC 6962, 2.1.1."""
    if len(data) == 1:
        return []
    k = 1
    while 2 * k < len(data):
        k *= 2
    if index < k:
        return [*path_by_definition(index, data[:k]), by_definition(data[k:])]
    return [*path_by_definition(index - k, data[k:]), by_definition(data[:k])]


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_roots_are_the_known_ones(size: int) -> None:
    assert root_of(LEAVES[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_paths_are_the_known_ones(index: int, size: int) -> None:
    assert [step.hex() for step in path(index, LEAVES[:size])] == PATHS[index, size]


def test_an_empty_tree_has_the_root_of_nothing() -> None:
    assert Tree().root() == EMPTY_ROOT == by_definition([])


@given(SIZES)
def test_a_root_is_as_the_rfc_defines_it(size: int) -> None:
    assert root_of(leaves(size)) == by_definition(leaves(size))


@given(SIZES, SIZES)
def test_a_tree_goes_on_from_its_frontier(size: int, more: int) -> None:
    begun = Tree()
    for leaf in leaves(size):
        begun.append(leaf)
    tree = Tree(begun.size, begun.frontier)
    for leaf in leaves(size + more)[size:]:
        tree.append(leaf)
    assert (tree.size, tree.root()) == (size + more, by_definition(leaves(size + more)))


@given(SIZES)
def test_a_frontier_is_the_roots_of_the_subtrees(size: int) -> None:
    data, tree = leaves(size), Tree()
    for leaf in data:
        tree.append(leaf)
    assert tree.frontier == b"".join(by_definition(data[part.start : part.stop]) for part in subtrees(size))


def test_a_frontier_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="no frontier"):
        Tree(3, bytes(32))
    with pytest.raises(ValueError, match="no frontier"):
        Tree(-1, bytes(32))


@given(st.integers(1, 70).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))))
def test_a_path_found_while_leaves_come_is_the_rfcs_and_leads_to_the_root(drawn: tuple[int, int]) -> None:
    index, size = drawn
    data, finder = leaves(size), PathFinder(size)
    for at, leaf in enumerate(data):
        finder.append(leaf, is_it=at == index)
    assert finder.index == index
    assert finder.path() == path(index, data) == path_by_definition(index, data)
    assert finder.root == root_by_path(data[index], index, size, finder.path()) == by_definition(data)


@given(st.integers(2, 40).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size))), st.data())
def test_a_path_leads_elsewhere_when_anything_of_it_changes(drawn: tuple[int, int], data: st.DataObject) -> None:
    index, size = drawn
    hashes = leaves(size)
    steps, root = path(index, hashes), by_definition(hashes)
    at = data.draw(st.integers(0, len(steps) - 1))
    changed = [*steps[:at], bytes(32), *steps[at + 1 :]]
    assert root_by_path(hashes[index], index, size, changed) != root
    assert root_by_path(hashes[index - 1], index, size, steps) != root
    other = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
    if len(siblings(other, size)) == len(steps):
        assert root_by_path(hashes[index], other, size, steps) != root


@pytest.mark.parametrize(("index", "size", "steps"), [(0, 8, 2), (0, 8, 4), (8, 8, 3), (-1, 8, 3), (0, 0, 0)])
def test_a_path_that_does_not_fit_its_tree_is_refused(index: int, size: int, steps: int) -> None:
    with pytest.raises(ValueError, match=r"has no leaf|has \d+ hashes"):
        root_by_path(bytes(32), index, size, [bytes(32)] * steps)
