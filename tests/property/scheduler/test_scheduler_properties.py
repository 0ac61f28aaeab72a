"""Random histories against the core: room, gangs, the life of a pod, reasons."""

import json
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from api import names
from api.decision import Decision
from scheduler.core.assumed import Assigned, AssignedPod, Hold
from scheduler.core.decisions import Bind, DeletePod, Explain
from scheduler.core.engine import Engine
from scheduler.core.events import BindConfirmed, BindFailed, NodeGone, PodGone
from scheduler.core.node_table import NodeTable
from scheduler.core.queue import Pool
from tests.builders.scheduler_objects import MIB, PodBuilder, World, a_cache, a_dataset, a_group, a_node, a_pod

NODES = ("n0", "n1", "n2")
GROUP = names.POD_GROUP_LABEL
UIDS = tuple(f"u{index}" for index in range(6))


class AssumedMachine(RuleBasedStateMachine):
    """Assigned against a model: a dict of who holds what where."""

    def __init__(self) -> None:
        super().__init__()
        self.table = NodeTable()
        self.assigned = Assigned(self.table)
        self.model: dict[str, tuple[str, int, Hold]] = {}

    def _pod(self, uid: str, node: str, cpu: int) -> AssignedPod:
        return AssignedPod(uid, "ns", uid, node, (("cpu", cpu),))

    @rule(uid=st.sampled_from(UIDS), node=st.sampled_from(NODES), cpu=st.integers(1, 5))
    def assume(self, uid: str, node: str, cpu: int) -> None:
        if uid not in self.model:
            self.assigned.assume(self._pod(uid, node, cpu))
            self.model[uid] = (node, cpu, Hold.ASSUMED)

    @rule(uid=st.sampled_from(UIDS), node=st.sampled_from(NODES), cpu=st.integers(1, 5))
    def confirm(self, uid: str, node: str, cpu: int) -> None:
        self.assigned.confirm(self._pod(uid, node, cpu))
        self.model[uid] = (node, cpu, Hold.BOUND)

    @rule(uid=st.sampled_from(UIDS))
    def forget(self, uid: str) -> None:
        is_assumed = uid in self.model and self.model[uid][2] is Hold.ASSUMED
        assert self.assigned.forget(uid) is is_assumed
        if is_assumed:
            del self.model[uid]

    @rule(uid=st.sampled_from(UIDS))
    def gone(self, uid: str) -> None:
        assert self.assigned.gone(uid) is (self.model.pop(uid, None) is not None)

    @rule(node=st.sampled_from(NODES))
    def add_node(self, node: str) -> None:
        is_new = node not in self.table.row_of
        self.table.put(a_node(node))
        if is_new:
            self.assigned.node_added(node)

    @rule(node=st.sampled_from(NODES))
    def remove_node(self, node: str) -> None:
        self.assigned.node_gone(node)

    @invariant()
    def room_is_the_sum_of_holders(self) -> None:
        for node, row in self.table.row_of.items():
            held = [cpu for where, cpu, _ in self.model.values() if where == node]
            assert self.table.requested[row, 0] == sum(held)
            assert self.table.pods[row] == len(held)
        assert len(self.assigned) == len(self.model)


TestAssumed = AssumedMachine.TestCase
TestAssumed.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class SchedulerMachine(RuleBasedStateMachine):
    """A world of pods, gangs, nodes and failing binds; the API server's truth is `truth`."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.sent: dict[str, Bind] = {}
        self.pods: dict[str, PodBuilder] = {}
        self.truth: dict[str, str] = {}
        self.count = 0
        self.told: set[str] = set()
        self.min_members: dict[str, int] = {}
        self.damaged: set[str] = set()  # gangs the test itself took members from
        self.world.nodes(a_node("n0", cpu="4", gpus=2))

    @property
    def engine(self) -> Engine:
        return self.world.engine

    def _perform(self) -> None:
        for decision in self.world.made:
            if isinstance(decision, Bind):
                _is_a_record_of_the_api(decision.annotation)
                assert decision.uid not in self.truth, "bound twice"
                assert decision.uid not in self.sent, "two binds in flight"
                self.sent[decision.uid] = decision
            elif isinstance(decision, Explain):
                self.told.add(decision.uid)
            elif isinstance(decision, DeletePod):
                self._delete(decision.uid)
        self.world.made.clear()

    def _damage(self, uid: str) -> None:
        pod = self.pods.get(uid)
        if pod is not None:
            self.damaged.add(pod.labels.get(GROUP, ""))

    def _delete(self, uid: str) -> None:
        self.pods.pop(uid, None)
        self.truth.pop(uid, None)
        self.world.feed(PodGone(uid))

    @rule(cpu=st.integers(1, 5), gpus=st.integers(0, 2), priority=st.integers(0, 2))
    def create_pod(self, cpu: int, gpus: int, priority: int) -> None:
        self.count += 1
        pod = a_pod(f"p{self.count}").asks(cpu=str(cpu)).priority(priority)
        self._create(pod.gpus(gpus) if gpus else pod)

    @rule(members=st.integers(1, 4), missing=st.integers(0, 1), gpus=st.integers(0, 1))
    def create_gang(self, members: int, missing: int, gpus: int) -> None:
        self.count += 1
        group = f"g{self.count}"
        self.world.groups(a_group(group, members + missing))
        self.min_members[group] = members + missing
        for index in range(members):
            pod = a_pod(f"{group}-{index}").asks(cpu="1").in_gang(group)
            self._create(pod.gpus(gpus) if gpus else pod)

    def _create(self, pod: PodBuilder) -> None:
        self.pods[pod.uid] = pod
        self.world.pods(pod)

    @rule(node=st.sampled_from(NODES), cpu=st.integers(1, 6), gpus=st.integers(0, 3))
    def put_node(self, node: str, cpu: int, gpus: int) -> None:
        # Nodes only grow or come: shrinking under bound pods is overcommit nobody can prevent.
        if node not in self.engine.state.table.row_of:
            self.world.nodes(a_node(node, cpu=str(cpu), gpus=gpus))

    @rule(node=st.sampled_from(NODES))
    def remove_node(self, node: str) -> None:
        self.world.feed(NodeGone(node))
        for uid in [uid for uid, where in self.truth.items() if where == node]:
            self._damage(uid)
            self._delete(uid)
        for uid in [uid for uid, bind in self.sent.items() if bind.node == node]:
            del self.sent[uid]
            self.world.feed(BindFailed(uid, node, "node is gone"))

    @rule(data=st.data())
    def answer_bind(self, data: st.DataObject) -> None:
        if not self.sent:
            return
        uid = data.draw(st.sampled_from(sorted(self.sent)))
        bind = self.sent.pop(uid)
        if data.draw(st.integers(0, 4)) == 0 or uid not in self.pods:
            self.world.feed(BindFailed(uid, bind.node, "refused"))
            return
        self.truth[uid] = bind.node
        events = data.draw(st.permutations(["answer", "watch"]))
        for event in events:
            if event == "answer":
                self.world.feed(BindConfirmed(uid, bind.node))
            else:
                self.world.pods(self.pods[uid].on(bind.node))
        self._perform()

    @rule(data=st.data())
    def delete_pod(self, data: st.DataObject) -> None:
        if self.pods:
            uid = data.draw(st.sampled_from(sorted(self.pods)))
            self._damage(uid)
            self._delete(uid)

    @rule(seconds=st.integers(0, 12), limit=st.integers(1, 8))
    def schedule(self, seconds: int, limit: int) -> None:
        self.world.tick(seconds)
        self.world.decide(limit)
        self._perform()

    @invariant()
    def no_node_is_overcommitted(self) -> None:
        table = self.engine.state.table
        for row in table.row_of.values():
            assert not table.is_overcommitted(row)

    @invariant()
    def passes_kept_agree_with_passes_made_anew(self) -> None:
        state = self.engine.state
        for uid in list(self.pods)[:2]:
            if uid in state.pods:
                pod = state.resolved(state.pods[uid].request)
                kept = state.placer.pass_for(pod)
                anew = state.placer.compute(pod, state.view())
                assert kept.total.tolist() == anew.total.tolist()

    @invariant()
    def every_waiting_pod_has_a_place_in_the_queue_or_is_in_flight(self) -> None:
        state = self.engine.state
        for uid, pending in state.pods.items():
            pod = pending.request
            if state.assigned.hold_of(uid) is not None:
                continue
            gang = state.gangs.of_member(uid)
            unit = gang.unit if pod.group is not None and gang is not None else uid
            assert state.queue.pool_of(unit) is not None, pod.key

    def teardown(self) -> None:
        """At rest every gang is whole or not there, and every pod left has a reason."""
        for _ in range(60):
            for uid, bind in list(self.sent.items()):
                del self.sent[uid]
                if uid in self.pods:
                    self.truth[uid] = bind.node
                    self.world.feed(BindConfirmed(uid, bind.node))
                    self.world.pods(self.pods[uid].on(bind.node))
                else:
                    self.world.feed(BindFailed(uid, bind.node, "gone"))
            self.world.tick(11)
            self.world.decide()
            self._perform()
        state = self.engine.state
        for uid in state.pods:
            assert uid in self.told, f"{uid} has no reason"
        assert state.gang_binds.units() == []
        bound = Counter(self.pods[uid].labels.get(GROUP, "") for uid in self.truth)
        for group, min_member in self.min_members.items():
            if group not in self.damaged:
                assert bound[group] == 0 or bound[group] >= min_member, group
        assert state.queue.counts[Pool.ACTIVE] == 0


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=60, deadline=None)
@given(
    gpus=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    members=st.integers(1, 8),
    extra=st.integers(0, 3),
    resident=st.lists(st.integers(0, 100), min_size=5, max_size=5),
)
def test_a_gang_is_bound_wholly_or_not_at_all_and_its_slowest_member_is_as_fast_as_can_be(
    gpus: list[int], members: int, extra: int, resident: list[int]
) -> None:
    world = World()
    world.nodes(*(a_node(f"n{index}", cpu="64", gpus=count) for index, count in enumerate(gpus)))
    world.datasets(a_dataset("d", 100 * MIB))
    world.caches(*(a_cache(f"n{index}", mem={"d": resident[index] * MIB}) for index in range(len(gpus))))
    world.groups(a_group("g", members))
    world.pods(*(a_pod(f"g-{index}").gpus(1).in_gang("g").reads('[{"name":"d"}]') for index in range(members + extra)))
    binds = world.binds()
    room = sum(gpus)
    assert len(binds) == (min(room, members + extra) if room >= members else 0)
    if binds:
        taken = Counter(binds.values())
        assert all(count <= gpus[int(node[1:])] for node, count in taken.items())
        seconds = world.engine.state.residency.sources(world.engine.state.pods["uid-g-0"].request.data).seconds.tolist()
        slowest = max(seconds[int(node[1:])] for node in binds.values())
        order = sorted(range(len(gpus)), key=lambda index: seconds[index])
        held, best = 0, 0.0
        for index in order:
            held, best = held + gpus[index], seconds[index]
            if held >= len(binds):
                break
        assert slowest <= best + max(0.01, 0.05 * best) + 1e-9


def _is_a_record_of_the_api(annotation: str) -> None:
    """The core writes it without the API's model: no field of another name, nothing that is not said."""
    read = Decision.model_validate_json(annotation)
    assert json.loads(read.model_dump_json(by_alias=True, exclude_unset=True)) == json.loads(annotation)
