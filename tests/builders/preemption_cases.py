"""Small clusters in which one pod must evict others: made by chance, and made so that one answer is right.

kube-scheduler leaves free which of several equal nodes it takes, and the order of pods of equal priority and start;
so every pod of a case starts at another second (one may not have started: it counts as the newest)."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

PRIORITIES = (-10, 0, 5, 50, 100)
PREEMPTOR = 100
LABELS = ("red", "blue", "green")
HOST_PORTS = (8080, 9090)


@dataclass(frozen=True)
class Held:
    """A pod on a node. `cpu` in cores, `memory` in GiB; `start` in seconds after some moment."""

    name: str
    node: str
    priority: int
    cpu: int
    memory: int
    start: int | None
    label: str = ""
    port: int = 0
    is_unfriendly: bool = False  # wants no `preemptor` on its node


@dataclass(frozen=True)
class Budget:
    """A budget for pods with one of the labels; `disrupted` are names of pods."""

    name: str
    labels: tuple[str, ...]
    allowed: int
    disrupted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """Nodes are (name, cpu, memory, pod slots). The preemptor asks `cpu`, `memory` and perhaps a host port, and
    wants no pod labelled `shuns` on its node."""

    nodes: tuple[tuple[str, int, int, int], ...]
    held: tuple[Held, ...]
    budgets: tuple[Budget, ...]
    cpu: int
    memory: int
    port: int = 0
    shuns: str = ""
    policy: str = "PreemptLowerPriority"

    def fits(self, node: tuple[str, int, int, int]) -> bool:
        """Whether the preemptor needs nobody's room there."""
        name, cpu, memory, slots = node
        here = [pod for pod in self.held if pod.node == name]
        return (
            sum(pod.cpu for pod in here) + self.cpu <= cpu
            and sum(pod.memory for pod in here) + self.memory <= memory
            and len(here) < slots
            and not (self.port and any(pod.port == self.port for pod in here))
            and not (self.shuns and any(pod.label == self.shuns for pod in here))
            and not any(pod.is_unfriendly for pod in here)
        )


@dataclass
class _Draft:
    random: Random
    held: list[Held] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)

    def fill(self, node: str, cpu: int, memory: int, slots: int) -> None:
        random = self.random
        used_ports: set[int] = set()
        while cpu > 0 and memory > 0 and slots > 0:
            port = random.choice(HOST_PORTS) if random.random() < 0.15 else 0
            if port in used_ports:
                port = 0
            used_ports.add(port)
            pod = Held(
                name=f"held-{len(self.held)}",
                node=node,
                priority=random.choice(PRIORITIES),
                cpu=random.randint(0, min(random.choice((1, 3)), cpu)),
                memory=random.randint(0, min(random.choice((1, 3)), memory)),
                start=self.starts.pop(),
                label=random.choice(LABELS) if random.random() < 0.6 else "",
                port=port,
                is_unfriendly=random.random() < 0.05,
            )
            self.held.append(pod)
            cpu, memory, slots = cpu - pod.cpu, memory - pod.memory, slots - 1
            if random.random() < 0.05:
                break


def a_case(seed: int) -> Case:
    """One case; nodes where the preemptor fits as it is are left out."""
    random = Random(seed)
    draft = _Draft(random, starts=random.sample(range(1, 5000), 200))
    nodes: list[tuple[str, int, int, int]] = []
    for index in range(random.randint(1, 5)):
        node = (f"node-{index}", random.randint(1, 12), random.randint(1, 12), random.choice((2, 4, 8, 110)))
        nodes.append(node)
        draft.fill(*node)
    held = draft.held
    if held and random.random() < 0.2:
        index = random.randrange(len(held))
        held[index] = Held(**{**_fields(held[index]), "start": None})
    budgets = tuple(
        Budget(
            name=f"budget-{index}",
            labels=tuple(random.sample(LABELS, random.randint(1, 2))),
            allowed=random.randint(0, 2),
            disrupted=(random.choice(held).name,) if held and random.random() < 0.2 else (),
        )
        for index in range(random.randint(0, 3))
    )
    case = Case(
        nodes=tuple(nodes),
        held=tuple(held),
        budgets=budgets,
        cpu=random.randint(1, 10),
        memory=random.randint(0, 8),
        port=random.choice(HOST_PORTS) if random.random() < 0.2 else 0,
        shuns=random.choice(LABELS) if random.random() < 0.2 else "",
        policy="Never" if random.random() < 0.04 else "PreemptLowerPriority",
    )
    kept = tuple(node for node in case.nodes if not case.fits(node))
    names = {name for name, *_ in kept}
    if not kept:
        return a_case(seed + 1_000_003)
    return Case(**{**_fields(case), "nodes": kept, "held": tuple(pod for pod in case.held if pod.node in names)})


def _fields(item: Any) -> dict[str, Any]:
    return {name: getattr(item, name) for name in item.__dataclass_fields__}
