"""Preemption on made-up clusters, against the rules written down once more, plainly, and against what must hold."""

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from kube.objects import DisruptionBudgetSpec, DisruptionBudgetStatus, PodDisruptionBudget
from scheduler.core.decisions import Explain, Nominate, Preempt
from scheduler.core.events import NodeGone, PodGone
from scheduler.core.kept_candidates import KeptCandidates
from scheduler.core.lower_priority import LowerPriority
from scheduler.core.pod_request import PodRequest
from scheduler.core.preemption import Candidate
from tests.builders.preemption_cases import PREEMPTOR, Budget, Case, Held, a_case
from tests.builders.scheduler_objects import PodBuilder, World, a_budget, a_group, a_node, a_pod

NOW = 10_000
SEEDS = st.integers(0, 1_000_000)


def _anti(labels: dict[str, str]) -> dict[str, object]:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _held(pod: Held, gang: str = "") -> PodBuilder:
    built = a_pod(pod.name).asks(cpu=str(pod.cpu), memory=f"{pod.memory}Gi").priority(pod.priority)
    built = built.started(pod.start) if pod.start is not None else built
    built = built.labelled(color=pod.label) if pod.label else built
    built = built.host_port(pod.port) if pod.port else built
    built = built.with_spec(affinity=_anti({"role": "preemptor"})) if pod.is_unfriendly else built
    return (built.in_gang(gang) if gang else built).on(pod.node)


def _budget(budget: Budget) -> PodDisruptionBudget:
    expression = {"key": "color", "operator": "In", "values": list(budget.labels)}
    return PodDisruptionBudget(
        metadata=a_budget(budget.name, 0).metadata,
        spec=DisruptionBudgetSpec(selector={"matchExpressions": [expression]}),
        status=DisruptionBudgetStatus(
            disruptions_allowed=budget.allowed, disrupted_pods=dict.fromkeys(budget.disrupted, "2026-01-01T00:00:00Z")
        ),
    )


def _world(case: Case, gangs: dict[str, str] | None = None) -> World:
    world = World()
    world.now = NOW
    world.nodes(*(a_node(name, cpu=str(cpu), memory=f"{memory}Gi", pods=str(s)) for name, cpu, memory, s in case.nodes))
    world.budgets(*map(_budget, case.budgets))
    world.pods(*(_held(pod, (gangs or {}).get(pod.name, "")) for pod in case.held))
    return world


def _preemptor(case: Case) -> PodBuilder:
    pod = a_pod("high").asks(cpu=str(case.cpu), memory=f"{case.memory}Gi")
    pod = pod.priority(PREEMPTOR).labelled(role="preemptor")
    pod = pod.host_port(case.port) if case.port else pod
    return pod.with_spec(affinity=_anti({"color": case.shuns})) if case.shuns else pod


def _decided(world: World, *pods: PodBuilder) -> tuple[str, frozenset[str]]:
    """Node and victims; "" when nobody is evicted."""
    world.pods(*pods)
    made = world.decide()
    victims = frozenset(victim.name for item in made if isinstance(item, Preempt) for victim in item.victims)
    nominated = {item.node for item in made if isinstance(item, Nominate) and item.node}
    assert bool(victims) == bool(nominated)
    assert any(isinstance(item, Explain) for item in made)
    return (nominated.pop() if len(nominated) == 1 else ""), victims


# ---- the rules once more ------------------------------------------------------------------------


def _importance(pod: Held) -> tuple[int, int]:
    return (-pod.priority, NOW if pod.start is None else pod.start)


def _plainly(case: Case) -> tuple[str, frozenset[str]]:
    """Every node, every step as kube-scheduler's documentation tells it."""
    best: tuple[tuple[float, ...], str, frozenset[str]] | None = None
    for node in case.nodes:
        here = sorted((pod for pod in case.held if pod.node == node[0]), key=_importance)
        evictable = [pod for pod in here if pod.priority < PREEMPTOR]
        keep = [pod for pod in here if pod.priority >= PREEMPTOR]
        if not evictable or not replace(case, held=tuple(keep)).fits(node):
            continue
        violating = _violating(case, evictable)
        victims = []
        for pod in [p for p in evictable if p.name in violating] + [p for p in evictable if p.name not in violating]:
            if replace(case, held=(*keep, pod)).fits(node):
                keep.append(pod)
            else:
                victims.append(pod)
        victims.sort(key=_importance)
        top = victims[0].priority
        cost = (
            sum(pod.name in violating for pod in victims),
            top,
            sum(pod.priority + 2**31 for pod in victims),
            len(victims),
            -min(_importance(pod)[1] for pod in victims if pod.priority == top),
        )
        if best is None or cost < best[0]:
            best = (cost, node[0], frozenset(pod.name for pod in victims))
    return (best[1], best[2]) if best is not None else ("", frozenset())


def _violating(case: Case, pods: list[Held]) -> set[str]:
    left = {budget.name: budget.allowed for budget in case.budgets}
    found = set()
    for pod in pods:
        for budget in case.budgets:
            if pod.label in budget.labels and pod.name not in budget.disrupted:
                left[budget.name] -= 1
                if left[budget.name] < 0:
                    found.add(pod.name)
    return found


# ---- properties ---------------------------------------------------------------------------------


@given(seed=SEEDS)
@settings(max_examples=250, deadline=None)
def test_node_and_victims_are_those_of_the_rules(seed: int) -> None:
    case = replace(a_case(seed), policy="PreemptLowerPriority")
    assert _decided(_world(case), _preemptor(case)) == _plainly(case)


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_victims_are_lower_and_all_needed_and_budgets_hold_where_they_can(seed: int) -> None:
    case = replace(a_case(seed), policy="PreemptLowerPriority")
    node_name, victims = _decided(_world(case), _preemptor(case))
    by_name = {pod.name: pod for pod in case.held}
    assert all(by_name[name].priority < PREEMPTOR for name in victims)
    if not victims:
        return
    node = next(node for node in case.nodes if node[0] == node_name)
    left = [pod for pod in case.held if pod.name not in victims]
    assert replace(case, held=tuple(left)).fits(node)
    for name in victims:
        assert not replace(case, held=(*left, by_name[name])).fits(node)
    guarded = {label for budget in case.budgets for label in budget.labels}
    for other in case.nodes:
        stay = [pod for pod in case.held if pod.priority >= PREEMPTOR or pod.label in guarded]
        if replace(case, held=tuple(stay)).fits(other):
            chosen = sorted((pod for pod in case.held if pod.node == node_name), key=_importance)
            violating = _violating(case, [pod for pod in chosen if pod.priority < PREEMPTOR])
            assert not victims & violating


@given(seed=SEEDS, spare=st.integers(0, 2), members=st.data())
@settings(max_examples=150, deadline=None)
def test_gangs_keep_their_minimum_or_leave(seed: int, spare: int, members: st.DataObject) -> None:
    case = replace(a_case(seed), policy="PreemptLowerPriority")
    gangs = {pod.name: members.draw(st.sampled_from(["", "", "one", "two"])) for pod in case.held}
    sizes = Counter(gang for gang in gangs.values() if gang)
    minimum = {gang: max(1, size - spare) for gang, size in sizes.items()}
    world = _world(case, gangs)
    world.groups(*(a_group(gang, count) for gang, count in minimum.items()))
    _, victims = _decided(world, _preemptor(case))
    assert all(pod.priority < PREEMPTOR for pod in case.held if pod.name in victims)
    for gang, size in sizes.items():
        left = size - sum(gangs[name] == gang for name in victims)
        assert left == size or left == 0 or left >= minimum[gang]


@given(seed=SEEDS, count=st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_a_gang_preempts_as_a_whole_and_fits_then(seed: int, count: int) -> None:
    case = replace(a_case(seed), policy="PreemptLowerPriority", shuns="", cpu=1 + seed % 3, port=0)
    case = replace(case, held=tuple(replace(pod, is_unfriendly=False) for pod in case.held))
    world = _world(case)
    world.groups(a_group("new", count))
    world.pods(*(replace(_preemptor(case), name=f"new-{i}", uid=f"uid-new-{i}").in_gang("new") for i in range(count)))
    made = world.decide()
    preempts = [item for item in made if isinstance(item, Preempt)]
    nominated = [item.node for item in made if isinstance(item, Nominate) and item.node]
    assert len(preempts) <= 1
    assert len(nominated) == (count if preempts else 0)
    if not preempts:
        return
    victims = {victim.name for victim in preempts[0].victims}
    left = [pod for pod in case.held if pod.name not in victims]
    assert all(pod.priority < PREEMPTOR for pod in case.held if pod.name in victims)
    on = Counter(nominated)
    for name, cpu, memory, slots in case.nodes:
        here = [pod for pod in left if pod.node == name]
        assert sum(pod.cpu for pod in here) + on[name] * case.cpu <= cpu
        assert sum(pod.memory for pod in here) + on[name] * case.memory <= memory
        assert len(here) + on[name] <= slots
    # Nobody could have stayed.
    for pod in case.held:
        if pod.name in victims:
            name, cpu, memory, slots = next(node for node in case.nodes if node[0] == pod.node)
            here = [other for other in left if other.node == name]
            assert (
                sum(other.cpu for other in here) + pod.cpu + on[name] * case.cpu > cpu
                or sum(other.memory for other in here) + pod.memory + on[name] * case.memory > memory
                or len(here) + 1 + on[name] > slots
            )


class _Forgetful(KeptCandidates):
    """Keeps nothing."""

    def of(self, pod: PodRequest) -> dict[int, Candidate | None]:
        return {}


@given(seed=SEEDS, steps=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40)), min_size=3, max_size=15))
@settings(max_examples=150, deadline=None)
def test_candidates_kept_from_earlier_searches_change_nothing(seed: int, steps: list[tuple[int, int]]) -> None:
    case = replace(a_case(seed), policy="PreemptLowerPriority", shuns="", port=0)
    gangs = {pod.name: "gang" for pod in case.held[::4]}
    keeping, forgetful = _world(case, gangs), _world(case, gangs)
    forgetful.engine._preempting._kept = _Forgetful(forgetful.engine.state)
    for world in (keeping, forgetful):
        world.groups(a_group("gang", max(1, len(gangs) - 1)))
        for number, (kind, which) in enumerate(steps):
            pod = case.held[which % len(case.held)] if case.held else None
            if kind < 3 or pod is None:
                world.pods(replace(_preemptor(case), name=f"high-{number}", uid=f"uid-high-{number}"))
            elif kind == 3:
                world.feed(PodGone(f"uid-{pod.name}"))
            elif kind == 4:
                world.pods(_held(replace(pod, start=(pod.start or 0) + 1), gangs.get(pod.name, "")))
            elif kind == 5:
                world.pods(_held(pod, gangs.get(pod.name, "")).being_preempted())
            else:
                world.pods(a_pod(f"new-{number}").asks(cpu="1").priority(1).started(number).on(pod.node))
            world.tick(20.0)
            world.decide()
    assert keeping.made == forgetful.made


@given(
    steps=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 4), st.booleans()), max_size=40),
    asked=st.integers(0, 5),
)
@settings(max_examples=100, deadline=None)
def test_sums_of_lower_priorities_follow_pods_and_nodes(steps: list[tuple[int, int, int, bool]], asked: int) -> None:
    world = World()
    state = world.engine.state
    for number, (pod, node, priority, adds) in enumerate(steps):
        if number % 7 == 6:
            world.feed(NodeGone(f"n{node}"))
        world.nodes(a_node(f"n{node}"))
        if adds:
            world.pods(a_pod(f"p{pod}").asks(cpu=str(1 + priority)).priority(priority).on(f"n{node}"))
        else:
            world.feed(PodGone(f"uid-p{pod}"))
        for level in (asked, 2):
            kept = state.lower.below(level)
            fresh = LowerPriority(state.table, state.assigned).below(level)
            assert (kept.requests == fresh.requests).all()
            assert (kept.pods == fresh.pods).all()
