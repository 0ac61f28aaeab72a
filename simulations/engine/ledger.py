"""The engine's own account of who is where, kept apart from the scheduler's, so that it can be wrong.

Owns room on nodes as the simulated kubelet sees it. Raises InvariantViolation on a bind no kubelet would accept.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from simulations.engine.model import NodeSpec

PODS_PER_NODE = 110
RESOURCES = ("GPUs", "millicores", "bytes of memory", "pod slots")


class InvariantViolation(AssertionError):
    """Something happened that must never happen; the text says what and when."""


class Ledger:
    """Room: int64[node, (gpu, cpu, memory, slots)]."""

    def __init__(self, nodes: Sequence[NodeSpec]) -> None:
        self._names = [node.name for node in nodes]
        rows = [(node.gpus, node.cpu_milli, node.memory_bytes, PODS_PER_NODE) for node in nodes]
        self.whole: NDArray[np.int64] = np.array(rows, dtype=np.int64).reshape(len(rows), 4)
        self.free = self.whole.copy()
        self.is_up: NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)
        self.is_open: NDArray[np.bool_] = np.ones(len(rows), dtype=np.bool_)  # not cordoned
        self._pods: dict[str, tuple[int, NDArray[np.int64]]] = {}
        # GPUs in all, in use, nodes in part taken, nodes: of nodes that are up, brought up to date with each change.
        self._whole = [node.gpus for node in nodes]
        self._used = self._partly = 0
        self._there, self._nodes = sum(self._whole), sum(count > 0 for count in self._whole)

    def set_up(self, node: int, *, is_up: bool) -> None:
        """A node comes or goes, with what is on it."""
        if bool(self.is_up[node]) == is_up:
            return
        if not is_up:
            self._count(node, -1)
        self.is_up[node] = is_up
        if is_up:
            self._count(node, 1)
        sign = 1 if is_up else -1
        self._there += sign * self._whole[node]
        self._nodes += sign * (self._whole[node] > 0)

    def bind(self, uid: str, node: int, asks: NDArray[np.int64], now: float) -> None:
        """A pod is put on a node."""
        name = self._names[node]
        if uid in self._pods:
            there = self._names[self._pods[uid][0]]
            raise InvariantViolation(f"double bind at {now:.1f} s: pod {uid} is on {there} and was bound to {name}")
        if not self.is_up[node] or not self.is_open[node]:
            raise InvariantViolation(f"at {now:.1f} s pod {uid} was bound to {name}, which is gone or cordoned")
        left = self.free[node] - asks
        if (left < 0).any():
            short = ", ".join(f"{-amount} {RESOURCES[i]}" for i, amount in enumerate(left.tolist()) if amount < 0)
            raise InvariantViolation(f"over-committed node at {now:.1f} s: pod {uid} on {name} lacks {short}")
        self._count(node, -1)
        self.free[node] = left
        self._count(node, 1)
        self._pods[uid] = (node, asks)

    def free_up(self, uid: str) -> None:
        """A pod ended."""
        node, asks = self._pods.pop(uid)
        self._count(node, -1)
        self.free[node] += asks
        self._count(node, 1)

    def _count(self, node: int, sign: int) -> None:
        if self.is_up[node]:
            used = self._whole[node] - int(self.free[node, 0])
            self._used += sign * used
            self._partly += sign * (0 < used < self._whole[node])

    def fits(self, asks: NDArray[np.int64], held: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """How many such pods would fit on each node now, with `held` kept free for others."""
        room = np.full(len(self.free), np.int64(1 << 40))
        free = self.free if held is None else self.free - held
        for column, amount in enumerate(asks.tolist()):
            if amount:
                room = np.minimum(room, free[:, column] // amount)
        return np.where(self.is_up & self.is_open, room, 0)

    def gpus(self) -> tuple[int, int, int, int]:
        """GPUs in use, GPUs there, nodes with some but not all GPUs taken, and GPU nodes there."""
        return self._used, self._there, self._partly, self._nodes
