"""The cluster's topology as a tree of domains, from node labels: zone > block > rack, by whatever keys are set.

Owns the tree and each row's domain at each level, kept current node by node. A domain is a path: rack r1 of zone a
is not rack r1 of zone b. A node without a level's label is in no domain of that level. Sums over domains are one
`bincount` of `Level.ids`. Does not know gangs. Invariant: the tree holds exactly the domains some node is in.

    ()  ──► (a,) ──► (a, b1) ──► (a, b1, r1)   number and nodes of a domain are attributes of its tree node
        └─► (b,) ──► …
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from scheduler.core.gang_apis import TopologyRequest
from scheduler.core.node_table import IntArray, NodeTable

Path = tuple[str, ...]
FIRST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Level:
    """One label key over all rows: `ids[row]` is the row's domain, -1 for none; `names[domain]` for people."""

    key: str
    ids: IntArray
    names: Sequence[str]


@dataclass(frozen=True, slots=True)
class Levels:
    """A request resolved: the level members share a domain of, the levels they cross little, widest first, and the
    wider levels above the required one, which a refusal is explained by."""

    required: Level | None = None
    preferred: tuple[Level, ...] = ()
    wider: tuple[Level, ...] = ()


ANYWHERE = Levels()


class TopologyTree:
    """Domains of the keys given, the widest first. One writer."""

    def __init__(self, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        self.tree: nx.DiGraph[Path] = nx.DiGraph()
        self.tree.add_node((), nodes=0)
        self._ids: list[NDArray[np.int64]] = [np.full(FIRST_ROWS, -1, dtype=np.int64) for _ in self.keys]
        self._names: list[list[str]] = [[] for _ in self.keys]
        self._free: list[list[int]] = [[] for _ in self.keys]
        self._path_of: dict[int, Path] = {}

    def put(self, row: int, labels: Mapping[str, str]) -> None:
        """A node is on a row, with these labels."""
        path = tuple(labels.get(key, "") for key in self.keys)
        while path and not path[-1]:
            path = path[:-1]
        if self._path_of.get(row) == path:
            return
        self.remove(row)
        self._path_of[row] = path
        self.tree.nodes[()]["nodes"] += 1
        for level, value in enumerate(path):
            self._enter(level, path[: level + 1], row, has_label=bool(value))

    def remove(self, row: int) -> None:
        """A row's node is gone."""
        path = self._path_of.pop(row, None)
        if path is None:
            return
        self.tree.nodes[()]["nodes"] -= 1
        for level in reversed(range(len(path))):
            self._ids[level][row] = -1
            domain = path[: level + 1]
            self.tree.nodes[domain]["nodes"] -= 1
            if not self.tree.nodes[domain]["nodes"]:
                self._free[level].append(self.tree.nodes[domain]["number"])
                self.tree.remove_node(domain)

    def level(self, key: str, table: NodeTable, *, is_by_value: bool = False) -> Level:
        """A key's domains: paths when it is one of the tree's, values of the label alone otherwise."""
        if key in self.keys and not is_by_value:
            index = self.keys.index(key)
            self._fit(index, table.size)
            return Level(key, self._ids[index][: table.size], self._names[index])
        column = table.column(key)
        return Level(key, column.ids[: table.size].astype(np.int64), column.values)

    def resolve(self, request: TopologyRequest, table: NodeTable) -> Levels:
        """The levels a request is about."""
        if request.is_tier_required or request.tier or request.required or request.preferred:
            required = self._key_of_tier(request.tier or 1) if request.is_tier_required else request.required
            # Volcano's tiers ask for the nearest place, whichever level that is.
            is_tiered = request.is_tier_required or bool(request.tier)
            preferred = self.keys if is_tiered else self._widest_first(request.preferred)
            if required in self.keys:
                preferred = tuple(key for key in preferred if key not in self.keys[: self.keys.index(required) + 1])
            preferred = tuple(key for key in preferred if key != required)
            above = self.keys[: self.keys.index(required)] if required in self.keys else ()
            return Levels(
                self.level(required, table, is_by_value=request.is_by_value) if required else None,
                tuple(self.level(key, table) for key in preferred),
                tuple(self.level(key, table) for key in reversed(above)),
            )
        return ANYWHERE

    def _key_of_tier(self, tier: int) -> str:
        # A tier above the widest level is the whole cluster.
        return self.keys[-tier] if tier <= len(self.keys) else ""

    def _widest_first(self, keys: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted(keys, key=lambda key: self.keys.index(key) if key in self.keys else len(self.keys)))

    def _enter(self, level: int, domain: Path, row: int, *, has_label: bool) -> None:
        if domain not in self.tree:
            self.tree.add_edge(domain[:-1], domain)
            self.tree.nodes[domain].update(nodes=0, number=self._number(level, domain))
        self.tree.nodes[domain]["nodes"] += 1
        self._fit(level, row + 1)
        self._ids[level][row] = self.tree.nodes[domain]["number"] if has_label else -1

    def _number(self, level: int, domain: Path) -> int:
        name = "/".join(value or "-" for value in domain)
        if self._free[level]:
            number = self._free[level].pop()
            self._names[level][number] = name
            return number
        self._names[level].append(name)
        return len(self._names[level]) - 1

    def _fit(self, level: int, rows: int) -> None:
        ids = self._ids[level]
        if len(ids) < rows:
            self._ids[level] = np.pad(ids, (0, max(rows, 2 * len(ids)) - len(ids)), constant_values=-1)
