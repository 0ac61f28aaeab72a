"""The simulated cache keeps its sums whatever happens to it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from simulations.engine.cache import Cache
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
        self.disks: dict[int, dict[int, float]] = {}
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

    @rule(node=nodes, dataset=datasets, size=st.floats(0.5, 300.0), share=st.floats(0.0, 1.0))
    def admit(self, node: int, dataset: int, size: float, share: float) -> None:
        self.now += 1
        before = {other: sum(held) for other, held in self.cache.held(node).items()}
        kept = self.cache.admit(node, dataset, size, size * share, self.now)
        assert 0.0 <= kept <= size + 1e-9
        for other, amount in before.items():
            if other == dataset or (node, other) in self.readers:
                assert sum(self.cache.held(node)[other]) >= amount - 1e-9, "evicted what is being read"

    @rule(node=nodes)
    def crash(self, node: int) -> None:
        self.disks.setdefault(node, self.cache.take_away(node))
        assert not self.cache.held(node)

    @rule(node=nodes)
    def come_back(self, node: int) -> None:
        self.cache.bring_back(node, self.disks.pop(node, {}), self.now)

    @invariant()
    def sums_hold(self) -> None:
        cache = self.cache
        for node in range(NODES):
            for tier in (0, 1):
                used = sum(held[tier] for held in cache.held(node).values())
                assert used <= cache.capacity(node)[tier] + 1e-6
        for dataset, size in enumerate(SIZES):
            on_nodes = sum(sum(cache.held(node).get(dataset, [0.0])) for node in range(NODES))
            assert abs(on_nodes - sum(cache.holders[dataset].values())) < 1.0
            assert 0.0 <= cache.distinct(dataset) <= min(size, on_nodes + 1.0) + 1e-6
            for node in range(NODES):
                shares = cache.shares(node, dataset)
                parts = (shares.mem, shares.ssd, shares.near, shares.far, shares.origin)
                assert abs(sum(parts) - 1.0) < 1e-6
                assert min(parts) > -1e-6


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCache = CacheMachine.TestCase
