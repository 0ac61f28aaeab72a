"""The ledger's running sums against a recount of everything, after every step."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metadata.core import paths
from metadata.core.residency import Held, Ledger, Residence

BLOCK = 4
NODES = st.sampled_from(["n1", "n2", "n3"])
UIDS = st.sampled_from(["u1", "u2"])
PATHS = st.sampled_from(["a/b/c", "a/b/d", "a/e", "f", "g/h"])
ETAGS = st.sampled_from(["e1", "e2"])
MEDIA = st.sampled_from(["MEM", "SSD"])


class LedgerModel(RuleBasedStateMachine):
    """The model keeps every line of every report and the current etags."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.current: dict[tuple[str, str], str | None] = {}
        self.held: dict[tuple[str, str, str, str], Held] = {}  # node, uid, path, etag

    @rule(node=NODES, uid=UIDS, path=PATHS, etag=ETAGS, medium=MEDIA, blocks=st.integers(0, 7))
    def report(self, node: str, uid: str, path: str, etag: str, medium: str, blocks: int) -> None:
        resident = sum(size for bit, size in enumerate((4, 4, 2)) if blocks >> bit & 1)
        held = Held(medium, 10, resident, bytes([blocks]), BLOCK)
        self.ledger.put(node, Residence(uid, path, etag, held), self.current.get((uid, path)))
        self.held.pop((node, uid, path, etag), None)
        if resident:
            self.held[node, uid, path, etag] = held

    @rule(uid=UIDS, changes=st.dictionaries(PATHS, st.one_of(st.none(), ETAGS), max_size=3))
    def change(self, uid: str, changes: dict[str, str | None]) -> None:
        self.ledger.set_current(uid, changes.items())
        self.current |= {(uid, path): etag for path, etag in changes.items()}

    @rule(node=NODES)
    def die(self, node: str) -> None:
        self.ledger.forget_node(node)
        self.held = {key: held for key, held in self.held.items() if key[0] != node}

    @rule(uid=UIDS)
    def remove_dataset(self, uid: str) -> None:
        self.ledger.forget_dataset(uid)
        self.held = {key: held for key, held in self.held.items() if key[1] != uid}

    @invariant()
    def sums_are_those_of_a_recount(self) -> None:
        for uid in ("u1", "u2"):
            sums: dict[tuple[str, str], int] = {}
            masks: dict[str, int] = {}
            below: dict[str, int] = {}
            for (node, owner, path, etag), held in self.held.items():
                if owner != uid or self.current.get((uid, path)) != etag:
                    continue
                sums[node, held.medium] = sums.get((node, held.medium), 0) + held.resident_bytes
                masks[path] = masks.get(path, 0) | held.blocks[0]
                if paths.is_at_or_below(path, "a/b") or path == "f":
                    below[node] = below.get(node, 0) + held.resident_bytes
            distinct = sum(size for mask in masks.values() for bit, size in enumerate((4, 4, 2)) if mask >> bit & 1)
            copies = sum(sums.values()) - distinct
            assert self.ledger.totals(uid) == (distinct, copies)
            assert self.ledger.recount(uid) == (sums, distinct, copies)
            assert self.ledger.below(uid, ["f", "a/b", "a/b/c", "nothing"]) == below
            on_nodes = {
                (node, medium): count
                for node in ("n1", "n2", "n3")
                if uid in (found := self.ledger.on_node(node))
                for medium, count in found[uid].by_medium.items()
            }
            assert on_nodes == sums


LedgerModel.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestLedgerModel = LedgerModel.TestCase
