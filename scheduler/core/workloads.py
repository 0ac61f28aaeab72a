"""Services and controllers, as far as they say which pods belong together: the selector of default spreading.

Owns their selectors as last seen. Mirrors helper/spread.go DefaultSelector of kube-scheduler 1.36: the labels of
all Services that select the pod, and the selector of the ReplicationController, ReplicaSet or StatefulSet that
controls it. Invariant: a pod gets the same answer until `version` rises; one that nothing selects gets None.
"""

from collections.abc import Mapping
from typing import Any

from scheduler.core.pod_request import Owner
from scheduler.core.pod_terms import PodIdentity, PodSet, PodTerm, TermCache
from scheduler.core.selectors import LabelSelector, Requirement, compile_label_selector

MAX_ANSWERS = 65_536
REPLICATION_CONTROLLER = "ReplicationController"


class Workloads:
    """Services and controllers by namespace and name. One writer."""

    def __init__(self) -> None:
        self._services: dict[str, dict[str, Mapping[str, str]]] = {}
        self._controllers: dict[tuple[str, Owner], LabelSelector] = {}
        self._terms = TermCache()
        self._answers: dict[tuple[PodIdentity, Owner | None], PodSet | None] = {}

    def put_service(self, namespace: str, name: str, selector: Mapping[str, str] | None) -> bool:
        """A Service's selector; None or empty: it selects nothing, or is gone. Returns whether that is news."""
        services = self._services.setdefault(namespace, {})
        if services.get(name) == (selector or None):
            return False
        if selector:
            services[name] = selector
        else:
            del services[name]
        self._answers.clear()
        return True

    def put_controller(self, namespace: str, owner: Owner, selector: Mapping[str, Any] | None) -> bool:
        """A controller's selector (a plain map of a ReplicationController, else a LabelSelector); None: gone."""
        kind, _ = owner
        raw = {"matchLabels": selector} if kind == REPLICATION_CONTROLLER and selector else selector
        compiled = compile_label_selector(raw)
        if self._controllers.get((namespace, owner)) == compiled:
            return False
        if compiled is None:
            del self._controllers[(namespace, owner)]
        else:
            self._controllers[(namespace, owner)] = compiled
        self._answers.clear()
        return True

    def default_spread(self, identity: PodIdentity, owner: Owner | None) -> PodSet | None:
        """The pods that one without spread constraints of its own is spread among; None: it is not."""
        if owner is None and not self._services.get(identity.namespace):
            return None
        key = (identity, owner)
        if key not in self._answers:
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            self._answers[key] = self._answer(identity, owner)
        return self._answers[key]

    def _answer(self, identity: PodIdentity, owner: Owner | None) -> PodSet | None:
        merged: dict[str, str] = {}
        for selector in self._services.get(identity.namespace, {}).values():
            if all(identity.labels.get(key) == value for key, value in selector.items()):
                merged |= selector
        requirements = {Requirement(key, "In", (value,)): None for key, value in sorted(merged.items())}
        controller = self._controllers.get((identity.namespace, owner)) if owner is not None else None
        if controller is not None:
            requirements |= dict.fromkeys(controller.requirements)
        if not requirements:
            return None
        term = PodTerm(LabelSelector(tuple(requirements)), frozenset((identity.namespace,)))
        return self._terms.pod_set(term, counts_leaving=False)
