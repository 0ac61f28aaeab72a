"""What GPU pods of this cluster typically ask for: the target workload of the fragmentation measure.

Owns the counts of requests of GPU pods that wait or run, whoever placed them. Does not score (plugins/gpu_fit.py).
One writer. Invariants: a pod counts once, from when it is first seen until it is gone; `version` rises only when the
mix has changed noticeably, so that what was computed from it may be kept.
"""

from collections import Counter
from collections.abc import Iterable

from api import names
from scheduler.core import requests

# Kinds looked at: the most popular. More cost time and change nothing that was measured (32 against 64 on the
# openb trace).
MAX_KINDS = 32
CHANGED_SHARE = 0.05
CHANGED_PODS = 8

Kind = tuple[int, int, int]  # millicores, bytes of memory, GPUs


class WorkloadMix:
    """See the module's docstring."""

    def __init__(self) -> None:
        self.version = 0
        self._pods: dict[str, Kind] = {}
        self._counts: Counter[Kind] = Counter()
        self._changes = 0
        self._kinds: tuple[tuple[Kind, float], ...] = ()

    def seen(self, uid: str, asked: Iterable[tuple[str, int]]) -> None:
        """A pod exists; one without GPUs does not count."""
        if uid in self._pods:
            return
        amounts = dict(asked)
        gpus = amounts.get(names.GPU_RESOURCE, 0)
        if gpus:
            kind = (amounts.get(requests.CPU, 0), amounts.get(requests.MEMORY, 0), gpus)
            self._pods[uid] = kind
            self._count(kind, 1)

    def gone(self, uid: str) -> None:
        """A pod ended or was deleted."""
        kind = self._pods.pop(uid, None)
        if kind is not None:
            self._count(kind, -1)

    @property
    def is_known(self) -> bool:
        """Whether any GPU pod was there when the mix was last taken."""
        return bool(self._kinds)

    def kinds(self) -> tuple[tuple[Kind, float], ...]:
        """Typical pods and each kind's share, of this `version`; shares sum to 1."""
        return self._kinds

    def _count(self, kind: Kind, by: int) -> None:
        self._counts[kind] += by
        if not self._counts[kind]:
            del self._counts[kind]
        self._changes += 1
        # The first pod and the last are noticed at once.
        if self._changes >= max(CHANGED_PODS, CHANGED_SHARE * len(self._pods)) or self.is_known != bool(self._pods):
            self._take()

    def _take(self) -> None:
        self._changes = 0
        self.version += 1
        # Ties by the kind itself: the same pods give the same mix, in whatever order they came.
        popular = sorted(self._counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_KINDS]
        total = sum(count for _, count in popular)
        self._kinds = tuple((kind, count / total) for kind, count in popular)
