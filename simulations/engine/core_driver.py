"""The scheduler's real core, fed with simulated events: objects in, binds out.

Owns what becomes an event of the core. Decides nothing: gangs by Permit are engine/coscheduling.py's.
"""

from collections.abc import Iterable, Sequence
from random import Random

from api import names
from kube.identity import ObjectMeta
from kube.objects import Pod
from scheduler.core import events
from scheduler.core.decisions import Bind, DeletePod, Preempt
from scheduler.core.engine import Engine
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.core.queue import Pool
from scheduler.settings import Settings, engine_settings
from simulations.engine import objects
from simulations.engine.cache import Cache
from simulations.engine.coscheduling import Coscheduling
from simulations.engine.driver import Attempt, Ending
from simulations.engine.model import JobSpec, World
from simulations.engine.policy import Gangs, Policy

TURN_BINDS = 4096


class CoreDriver:
    """See the module's docstring."""

    def __init__(
        self,
        world: World,
        policy: Policy,
        cache: Cache,
        random: Random,
        *,
        workers: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """`workers`: nodes with a fixed worker of a dataset, by dataset: those carry its label, whatever they hold."""
        self._world, self._policy, self._cache = world, policy, cache
        settings = Settings(
            speeds=objects.scheduler_speeds(world),
            # Nothing changes behind the core's back here, so a flush could only repeat a refusal.
            flush_seconds=6 * 3600.0,
        )
        self.engine = Engine(policy.plugins(settings), engine_settings(settings))
        if policy.prepare is not None:
            policy.prepare(self.engine, random)
        self._permit = Coscheduling(self.engine, [node.name for node in world.nodes])
        self._shapes = ShapeCache()
        self._inbox: list[events.Event] = []
        self._attempts: dict[str, Attempt] = {}
        self._number = {node.name: index for index, node in enumerate(world.nodes)}
        self._labels: list[set[int]] = [set() for _ in world.nodes]
        self._teller = objects.CacheTeller(world, cache, {})
        self._is_up = [True] * len(world.nodes)
        self._is_open = [True] * len(world.nodes)
        self._workers = workers
        for dataset, holders in enumerate(workers):
            for index in holders:
                self._labels[index].add(dataset)
        for index in range(len(world.nodes)):
            self._tell_node(index)
        if policy.names_data:
            self._inbox += [events.DatasetChanged(objects.dataset_object(item)) for item in world.datasets]
            # Workers tell of empty caches too, when they start: nobody brings data where no cache is known.
            self.report(range(len(world.nodes)))

    # ---- events -----------------------------------------------------------------------------

    def submit(self, attempt: Attempt, now: float, checkpoint: dict[int, float]) -> None:
        """The pods of an attempt exist; `checkpoint`: bytes of it by node."""
        is_gang = self._policy.gangs is Gangs.WHOLE and attempt.spec.pods > 1
        if is_gang:
            self._inbox.append(events.GroupChanged(objects.group_object(attempt.group, attempt.spec.pods)))
        if self._policy.gangs is Gangs.PERMIT and attempt.spec.pods > 1:
            self._permit.submitted(attempt)
        labels = {names.POD_GROUP_LABEL: attempt.group} if is_gang else {}
        names_data = self._policy.names_data
        annotations = objects.data_annotations(self._world, attempt.spec, checkpoint) if names_data else {}
        affinity = self._injected(attempt.spec) if self._policy.labels_data else None
        spec = objects.pod_spec(attempt.spec, names.DEFAULT_SCHEDULER_NAME, affinity)
        for uid in attempt.uids:
            self._attempts[uid] = attempt
            meta = ObjectMeta(
                name=f"p{uid}", namespace=objects.NAMESPACE, uid=uid, labels=labels, annotations=annotations
            )
            self._inbox.append(events.PodPending(pod_request(Pod(metadata=meta, spec=spec), self._shapes, now)))

    def ended(self, attempt: Attempt, ending: Ending, later: Sequence[str] = ()) -> None:
        """All pods of an attempt are gone, bound or not, but for `later`."""
        del ending  # the core sees room come back, whatever the reason
        if self._policy.gangs is Gangs.WHOLE and attempt.spec.pods > 1:
            self._inbox.append(events.GroupGone(objects.NAMESPACE, attempt.group))
        for uid in attempt.uids:
            del self._attempts[uid]
            if uid not in later:
                self.gone(uid)
        self._permit.ended(attempt)

    def gone(self, uid: str) -> None:
        """A pod is gone."""
        self._inbox.append(events.PodGone(uid))
        self._permit.room_came()

    def node(self, index: int, *, is_up: bool, is_open: bool) -> None:
        """A node came, went, or was cordoned. Its pods are to be ended before it goes."""
        was_up, self._is_up[index], self._is_open[index] = self._is_up[index], is_up, is_open
        if is_up:
            self._tell_node(index)
            self._permit.room_came()
        elif was_up:
            self._inbox.append(events.NodeGone(self._world.nodes[index].name))
            self._inbox.append(events.CacheGone(self._world.nodes[index].name))

    def report(self, nodes: Iterable[int]) -> None:
        """What these nodes' caches hold now."""
        for index in sorted(nodes):
            if self._policy.names_data:
                self._inbox.append(events.CacheChanged(self._teller.node_cache(index)))
            if self._policy.labels_data and not self._workers:
                labels = set(self._cache.copied(index))
                if labels != self._labels[index]:
                    self._labels[index] = labels
                    if self._is_up[index]:
                        self._tell_node(index)

    def permit_is_over(self, attempt: Attempt) -> None:
        """Those placed waited long enough for the others: all give their room back."""
        self._permit.is_over(attempt)

    # ---- decisions --------------------------------------------------------------------------

    def turn(self, now: float) -> list[tuple[str, int, Attempt]]:
        """Apply events and decide until nothing more can be placed; returns binds as (uid, node, attempt)."""
        bound: list[tuple[str, int, Attempt]] = []
        engine, by_permit = self.engine, self._policy.gangs is Gangs.PERMIT
        self._permit.give_up(now)
        while True:
            inbox, self._inbox = self._inbox, []
            made = engine.handle(inbox, now)
            self._permit.wake(now)
            # Who gives up does so before others are tried.
            made += engine.decide(now, 1 if by_permit else TURN_BINDS)
            for decision in made:
                if isinstance(decision, Bind):
                    bound += self._take(decision)
                elif isinstance(decision, Preempt | DeletePod):
                    raise NotImplementedError(f"at {now:.1f} s the core wants {decision}; jobs here have one priority")
            self._permit.post_filter(now)
            if not self._inbox and not engine.has_work:
                return bound

    def _take(self, bind: Bind) -> list[tuple[str, int, Attempt]]:
        attempt, node = self._attempts[bind.uid], self._number[bind.node]
        if self._policy.gangs is not Gangs.PERMIT or attempt.spec.pods == 1:
            self._confirm(bind.uid, node, attempt)
            return [(bind.uid, node, attempt)]
        placed = self._permit.place(bind.uid, node, attempt)
        for uid, where in placed:
            self._confirm(uid, where, attempt)
        return [(uid, where, attempt) for uid, where in placed]

    def _confirm(self, uid: str, node: int, attempt: Attempt) -> None:
        held = self.engine.state.assigned.get(uid)
        assert held is not None, f"pod {uid} was decided but holds no room"
        attempt.node_of[uid] = node
        group = held.facts.group
        self._inbox.append(events.BindConfirmed(uid, self._world.nodes[node].name))
        self._inbox.append(events.PodAssigned(held, group=group, is_ours=True, is_running=True))

    def next_due(self) -> float:
        """When the core has something to do without an event."""
        return min(self.engine.next_due(), self._permit.next_due())

    @property
    def has_news(self) -> bool:
        """Whether events wait for the next turn."""
        return bool(self._inbox) or self._permit.has_news

    def reason_of(self, attempt: Attempt) -> tuple[str, bool]:
        """What the first pod of an attempt that was told anything was told, and whether it rests (is not about to be
        tried). A pod the core does not know, or a job whose pods were told nothing, rests without a reason."""
        state, told, rests = self.engine.state, "", True
        for uid in attempt.uids:
            if uid in attempt.node_of or uid in attempt.permits:
                continue
            pending = state.pods.get(uid)
            if pending is None or pending.node:
                return "", True
            gang = state.gangs.of_member(uid)
            rests = rests and state.queue.pool_of(gang.unit if gang is not None else uid) is Pool.UNSCHEDULABLE
            told = told or pending.told
        return told, rests or self._permit.rests(attempt) or not told

    # ---- objects ----------------------------------------------------------------------------

    def _tell_node(self, index: int) -> None:
        node = objects.node_object(self._world, index, is_open=self._is_open[index], labelled=self._labels[index])
        self._inbox.append(events.NodeChanged(node))

    def _injected(self, spec: JobSpec) -> dict[str, object] | None:
        """What Fluid's webhook adds at admission: the node term by label, zones and region as they are now."""
        if spec.dataset is None:
            return None
        label = objects.label_of(self._world.datasets[spec.dataset].name)
        terms: list[dict[str, object]] = [_term(100, label, ["true"])]
        workers = self._workers[spec.dataset] if self._workers else self._cache.holders[spec.dataset]
        zones = sorted({self._world.nodes[node].zone for node in workers})
        if zones:
            terms += [_term(50, objects.ZONE, zones), _term(20, objects.REGION, ["r"])]
        return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}


def _term(weight: int, key: str, values: list[str]) -> dict[str, object]:
    return {
        "weight": weight,
        "preference": {"matchExpressions": [{"key": key, "operator": "In", "values": values}]},
    }
