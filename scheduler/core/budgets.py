"""PodDisruptionBudgets as preemption counts them.

Owns the budgets as last seen, and the rule of filterPodsWithPDBViolation (defaultpreemption of kube-scheduler
1.36): victims are taken in order of importance, each uses up one disruption of every budget that selects it, and
violates when one of these had none left. Pods without labels, budgets with an absent or empty selector, and pods
the API server lists as disrupted already count for nothing. Does not choose victims.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kube.objects import PodDisruptionBudget
from scheduler.core.assumed import AssignedPod
from scheduler.core.selectors import LabelSelector, compile_label_selector


@dataclass(frozen=True, slots=True)
class _Budget:
    selector: LabelSelector
    allowed: int
    disrupted: frozenset[str]


class Budgets:
    """All budgets by namespace and name. One writer. `version` rises with every change."""

    def __init__(self) -> None:
        self._budgets: dict[str, dict[str, _Budget]] = {}
        self.version = 0

    def put(self, budget: PodDisruptionBudget) -> bool:
        """Add or update a budget; returns whether that changed anything."""
        meta, status = budget.metadata, budget.status
        selector = compile_label_selector(budget.spec.selector)
        if selector is None or not selector.requirements or not all(item.is_valid for item in selector.requirements):
            return self.remove(meta.namespace, meta.name)
        made = _Budget(selector, status.disruptions_allowed, frozenset(status.disrupted_pods))
        here = self._budgets.setdefault(meta.namespace, {})
        if here.get(meta.name) == made:
            return False
        here[meta.name] = made
        self.version += 1
        return True

    def remove(self, namespace: str, name: str) -> bool:
        """Forget a budget; returns whether there was one."""
        here = self._budgets.get(namespace, {})
        if here.pop(name, None) is None:
            return False
        if not here:
            del self._budgets[namespace]
        self.version += 1
        return True

    def accounting(self) -> "BudgetAccount":
        """A fresh account: nothing disrupted yet."""
        return BudgetAccount(self)

    def selecting(self, pod: AssignedPod) -> list[tuple[str, str]]:
        """Namespace and name of the budgets that a disruption of a pod uses up."""
        here = self._budgets.get(pod.namespace)
        labels = pod.identity.labels
        if not here or not labels:
            return []
        return [
            (pod.namespace, name)
            for name, budget in here.items()
            if budget.selector.matches(labels) and pod.name not in budget.disrupted
        ]

    def allowed(self, key: tuple[str, str]) -> int:
        """How many disruptions a budget allows now."""
        return self._budgets[key[0]][key[1]].allowed


class BudgetAccount:
    """Disruptions of one set of victims, taken in order of importance."""

    def __init__(self, budgets: Budgets) -> None:
        self._budgets = budgets
        self._left: dict[tuple[str, str], int] = {}

    def disrupt(self, pods: Sequence[AssignedPod]) -> int:
        """Count pods; returns how many of them violate a budget."""
        violating = 0
        for pod in pods:
            violates = False
            for key in self._budgets.selecting(pod):
                left = self._left.get(key)
                left = (self._budgets.allowed(key) if left is None else left) - 1
                self._left[key] = left
                violates = violates or left < 0
            violating += violates
        return violating
