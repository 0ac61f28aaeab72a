"""The simulated cache keeps its sums whatever happens to it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from simulations.engine.cache import Cache, Disk
from simulations.engine.model import DatasetSpec, NodeSpec

NODES, SIZES = 4, (100.0, 60.0, 250.0)
nodes = st.integers(0, NODES - 1)
datasets = st.integers(0, len(SIZES) - 1)


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        specs = tuple(NodeSpec(f"n{i}", 8, 1, 1, i // 2, mem_bytes=40.0, ssd_bytes=120.0) for i in range(NODES))
        self.cache = Cache(specs, tuple(DatasetSpec(f"d{i}", size) for i, size in enumerate(SIZES)))
        self.readers: list[tuple[int, int]] = []
        self.disks: dict[int, Disk] = {}
        self.told: list[dict[int, list[float]]] = [{} for _ in range(NODES)]
        self.now = 0.0

    @rule(node=nodes, dataset=datasets)
    def read(self, node: int, dataset: int) -> None:
        self.now += 1
        self.cache.start_reading(node, dataset, self.now)
        self.readers.append((node, dataset))

    @rule(index=st.integers(0, 5))
    def stop(self, index: int) -> None:
        if self.readers:
            self.cache.stop_reading(*self.readers.pop(index % len(self.readers)), self.now)

    def _read_elsewhere_too(self, node: int, dataset: int) -> dict[int, float]:
        """What may not go for another dataset's bytes, by dataset, and how much there is."""
        cache = self.cache
        kept = {
            other: cache.copies(node, other).size
            for other in range(len(SIZES))
            if other != dataset and (node, other) in self.readers
        }
        for other in {number for _, number in self.readers} - {dataset}:
            kept[other] = kept.get(other, 0.0) + cache.homes.here(other, node)
        return kept

    @rule(node=nodes, dataset=datasets, size=st.floats(0.5, 300.0), paired=st.floats(0.0, 1.0))
    def admit(self, node: int, dataset: int, size: float, paired: float) -> None:
        self.now += 1
        before, at_home = self._read_elsewhere_too(node, dataset), self.cache.homes.here(dataset, node)
        kept = self.cache.admit(node, dataset, size, paired, self.now)
        assert 0.0 <= kept <= size + 1e-9
        assert self.cache.homes.here(dataset, node) == at_home, "a copy took the room of home bytes of its dataset"
        for other, amount in before.items():
            assert self.cache.local(node, other) >= amount - 1e-6, "evicted what is being read"

    @rule(dataset=datasets, size=st.floats(0.5, 300.0), beside=st.floats(0.0, 100.0))
    def bring(self, dataset: int, size: float, beside: float) -> None:
        self.now += 1
        absent = self.cache.absent(dataset)
        before = [self._read_elsewhere_too(node, dataset) for node in range(NODES)]
        kept = self.cache.bring(dataset, min(size, absent), self.now, beside=beside)
        assert 0.0 <= kept <= size + 1e-6
        assert abs(self.cache.absent(dataset) - (absent - kept)) < 1e-6
        for node, amounts in enumerate(before):
            for other, amount in amounts.items():
                assert self.cache.local(node, other) >= amount - 1e-6, "evicted what is being read"

    @rule(node=nodes)
    def crash(self, node: int) -> None:
        self.disks.setdefault(node, self.cache.take_away(node))
        assert not self.cache.held(node)

    @rule(node=nodes)
    def come_back(self, node: int) -> None:
        self.cache.bring_back(node, self.disks.pop(node, Disk()), self.now)

    @rule(node=nodes)
    def report(self, node: int) -> None:
        """Who looks at what changed alone knows all of it."""
        told = self.told[node]
        for dataset in self.cache.take_changed(node):
            sizes = self.cache.told(node, dataset)
            told.pop(dataset, None)
            if sizes is not None:
                told[dataset] = sizes
        assert told == self.cache.held(node)
        self.cache.dirty.discard(node)

    @invariant()
    def who_is_not_dirty_tells_nothing_new(self) -> None:
        for node, told in enumerate(self.told):
            assert node in self.cache.dirty or told == self.cache.held(node)

    @invariant()
    def sums_hold(self) -> None:
        cache = self.cache
        for node in range(NODES):
            for tier in (0, 1):
                used = sum(held[tier] for held in cache.held(node).values())
                assert used <= cache.capacity(node)[tier] + 1e-6
        for dataset, size in enumerate(SIZES):
            at_homes = sum(cache.homes.here(dataset, node) for node in range(NODES))
            assert abs(at_homes - cache.homes.total[dataset]) < 1e-6
            assert at_homes <= size + 1e-6
            assert abs(sum(cache.homes.in_rack(dataset, rack) for rack in range(2)) - at_homes) < 1e-6
            for node in range(NODES):
                copies = cache.copies(node, dataset)
                assert abs(copies.size - cache.holders[dataset].get(node, 0.0)) < 1e-6
                assert -1e-6 <= copies.paired <= copies.size + 1e-6
                assert -1e-6 <= copies.loose <= copies.size + 1e-6
                assert cache.local(node, dataset) <= size + 1e-6
                shares = cache.shares(node, dataset)
                parts = (shares.mem, shares.ssd, shares.near, shares.far, shares.origin)
                assert abs(sum(parts) - 1.0) < 1e-6
                assert min(parts) > -1e-6
                assert -1e-6 <= shares.own <= shares.origin + 1e-6


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
