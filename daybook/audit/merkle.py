"""Merkle trees as RFC 6962 (Certificate Transparency) defines them in its section 2.1. Nothing here does I/O.

A leaf's hash is SHA-256 over a zero byte and its data, a node's over a one byte and its two children's hashes, so that
neither can be passed off as the other. A tree of n leaves has the largest power of two below n on its left.

Written here, not taken: the one well-kept package (pymerkle) is under the GPL, keeps all leaves, and cannot go on from
a frontier, which is what makes a checkpoint cost what is new and not what there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree to which leaves are appended. Of it are kept the roots of its complete subtrees, the largest first.

    There are as many as `size` has binary ones: that many numbers stand for any number of leaves.
    """

    __slots__ = ("_frontier", "size")

    def __init__(self, size: int = 0, frontier: bytes = b"") -> None:
        """Go on from a frontier. Raises `ValueError` if it is none of a tree of that size."""
        if size < 0 or len(frontier) != size.bit_count() * HASH_BYTES:
            raise ValueError(f"a tree of {size} leaves has no frontier of {len(frontier)} bytes")
        self.size = size
        self._frontier = [frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES)]

    def append(self, leaf: bytes) -> None:
        """Append a leaf by its hash."""
        size, frontier = self.size, self._frontier
        self.size = size + 1
        while size & 1:
            leaf = sha256(b"\x01" + frontier.pop() + leaf).digest()
            size >>= 1
        frontier.append(leaf)

    @property
    def frontier(self) -> bytes:
        return b"".join(self._frontier)

    def root(self) -> bytes:
        if not self._frontier:
            return EMPTY_ROOT
        root = self._frontier[-1]
        for left in self._frontier[-2::-1]:
            root = node_hash(left, root)
        return root


def subtrees(size: int) -> list[range]:
    """The leaves under each hash of a frontier, in its order."""
    found: list[range] = []
    start = 0
    for bit in range(size.bit_length() - 1, -1, -1):
        if size >> bit & 1:
            found.append(range(start, start + (1 << bit)))
            start += 1 << bit
    return found


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of a tree of these leaves, given by their hashes."""
    tree = Tree()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def siblings(index: int, size: int) -> list[range]:
    """The leaves under each hash of the path from leaf `index` to the root of a tree of `size`, from the leaf up."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    found: list[range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if index < middle:
            found.append(range(middle, end))
            end = middle
        else:
            found.append(range(start, middle))
            start = middle
    return found[::-1]


def path(index: int, leaves: Sequence[bytes]) -> list[bytes]:
    """The path from a leaf to the root, where all leaves' hashes are at hand."""
    return [root_of(leaves[part.start : part.stop]) for part in siblings(index, len(leaves))]


class PathFinder:
    """The path of one leaf of a tree whose leaves come one by one, in memory that does not grow with them.

    Until the leaf is there, the tree's frontier is kept, which is the left half of its path; afterwards, the subtrees
    on its right are hashed as they come.
    """

    def __init__(self, size: int) -> None:
        """`size` is that of the whole tree."""
        self._size = size
        self._tree = Tree()
        self._index: int | None = None
        self._left: list[bytes] = []
        self._right: list[tuple[range, Tree]] = []
        self._at = 0

    @property
    def index(self) -> int | None:
        return self._index

    @property
    def root(self) -> bytes:
        """The root of the leaves so far."""
        return self._tree.root()

    @property
    def size(self) -> int:
        return self._tree.size

    def append(self, leaf: bytes, *, is_it: bool) -> None:
        index = self._tree.size
        if is_it and self._index is None:
            self._index = index
            frontier = self._tree.frontier
            self._left = [frontier[at : at + HASH_BYTES] for at in range(0, len(frontier), HASH_BYTES)]
            self._right = [(part, Tree()) for part in siblings(index, self._size) if part.start > index]
        elif self._at < len(self._right):
            part, tree = self._right[self._at]
            tree.append(leaf)
            if index + 1 == part.stop:
                self._at += 1
        self._tree.append(leaf)

    def path(self) -> list[bytes]:
        """From the leaf up, once all leaves were appended."""
        assert self._index is not None  # noqa: S101 - the caller has seen that the leaf came
        left = dict(zip((part.start for part in subtrees(self._index)), self._left, strict=True))
        right = {part.start: tree.root() for part, tree in self._right}
        return [(left | right)[part.start] for part in siblings(self._index, self._size)]


def root_by_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf's path leads to. Raises `ValueError` when a path in a tree of that size is not as long."""
    parts = siblings(index, size)
    if len(parts) != len(path):
        raise ValueError(f"the path of leaf {index} in a tree of {size} has {len(parts)} hashes, not {len(path)}")
    found = leaf
    for part, sibling in zip(parts, path, strict=True):
        found = node_hash(sibling, found) if part.start < index else node_hash(found, sibling)
    return found
