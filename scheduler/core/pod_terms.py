"""What a pod wants of other pods: affinity, anti-affinity and spread, compiled once and shared.

Owns the meaning of spec.affinity.podAffinity / podAntiAffinity and spec.topologySpreadConstraints as
kube-scheduler 1.36 reads them (kube-scheduler/framework/types.go newAffinityTerm, podtopologyspread/common.go),
and the interning: equal terms are one object, so everything here is compared by identity. Does not count pods
(core/pod_index.py) nor judge nodes (plugins/pod_affinity.py, plugins/topology_spread.py).

`matchLabelKeys` and `mismatchLabelKeys` of affinity terms are not read: the API server has merged them into
labelSelector when the pod was created, and kube-scheduler does not read them either. `matchLabelKeys` of spread
constraints are merged here, as kube-scheduler does; where the API server did it too that changes nothing.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kube.objects import PodSpec, TopologySpreadConstraint
from scheduler.core.selectors import LabelSelector, Requirement, compile_label_selector

# Above this many of a kind, all are forgotten: identities compare unequal afterwards, which costs time only.
MAX_INTERNED = 65_536
REQUIRED, PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)
# What an assigned pod's required affinity is worth to a pod it is about (InterPodAffinityArgs' default).
HARD_AFFINITY_WEIGHT = 1
Hint = tuple[str, str] | None  # a label every selected pod has; None: no such label is known


@dataclass(frozen=True, slots=True, eq=False)
class PodIdentity:
    """What other pods' selectors see of a pod."""

    namespace: str
    labels: Mapping[str, str]


NOBODY = PodIdentity("", {})


@dataclass(frozen=True, slots=True)
class PodTerm:
    """Which pods a term is about. Selectors that are None select nothing, without requirements everything."""

    selector: LabelSelector | None
    namespaces: frozenset[str]
    namespace_selector: LabelSelector | None = None

    @property
    def hint(self) -> Hint:
        """A label that all selected pods have."""
        for requirement in self.selector.requirements if self.selector is not None else ():
            if requirement.operator == "In" and len(requirement.values) == 1:
                return requirement.key, requirement.values[0]
        return None


@dataclass(frozen=True, slots=True, eq=False)
class PodSet:
    """Assigned pods that all of `terms` select; those being deleted only with `counts_leaving`."""

    number: int
    terms: tuple[PodTerm, ...]
    counts_leaving: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class HeldTerm:
    """A term of an assigned pod that is about pods to come: it keeps them away, or draws them (`weight` above 0)
    or deters them (below) from the topology value of the pod's node."""

    number: int
    term: PodTerm
    topology_key: str
    keeps_away: bool
    weight: int


@dataclass(frozen=True, slots=True, eq=False)
class AffinityTerm:
    """A pod's own term. `weight` is above 0 for preferred affinity, below for preferred anti-affinity."""

    pods: PodSet
    topology_key: str
    weight: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class SpreadConstraint:
    """`pods` None: nothing is ever counted (an empty or a missing selector)."""

    topology_key: str
    max_skew: int
    min_domains: int
    pods: PodSet | None
    selects_itself: bool
    honors_affinity: bool
    honors_taints: bool


@dataclass(frozen=True, slots=True, eq=False)
class PodTerms:
    """All of a pod's wishes about others. Number 0 is "none"."""

    number: int
    affinity: tuple[AffinityTerm, ...] = ()
    affinity_pods: PodSet | None = None  # one assigned pod must be what all affinity terms are about
    anti_affinity: tuple[AffinityTerm, ...] = ()
    preferred: tuple[AffinityTerm, ...] = ()
    hard_spread: tuple[SpreadConstraint, ...] = ()
    soft_spread: tuple[SpreadConstraint, ...] = ()
    names_spread: bool = False  # then the cluster's default constraints do not apply
    held: tuple[HeldTerm, ...] = ()


NO_TERMS = PodTerms(0)


@dataclass(frozen=True, slots=True)
class _Template:
    """A pod's terms before its labels are looked at."""

    affinity: tuple[tuple[PodTerm, str], ...]
    anti_affinity: tuple[tuple[PodTerm, str], ...]
    preferred: tuple[tuple[PodTerm, str, int], ...]
    spread: tuple[tuple[TopologySpreadConstraint, LabelSelector | None], ...]


@dataclass(slots=True)
class TermCache:
    """Interns identities and terms. Numbers are never reused."""

    _identities: dict[Hashable, PodIdentity] = field(default_factory=dict)
    _templates: dict[tuple[int, str], _Template] = field(default_factory=dict)
    _terms: dict[Hashable, PodTerms] = field(default_factory=dict)
    _sets: dict[Hashable, PodSet] = field(default_factory=dict)
    _held: dict[Hashable, HeldTerm] = field(default_factory=dict)
    _next: int = 1

    def identity(self, namespace: str, labels: Mapping[str, str]) -> PodIdentity:
        """The one object for a namespace and labels."""
        key = (namespace, *labels.items())
        found = self._identities.get(key)
        if found is None:
            _bound(self._identities)
            found = self._identities[key] = PodIdentity(namespace, labels)
        return found

    def terms_of(self, spec: PodSpec, shape_number: int, identity: PodIdentity) -> PodTerms:
        """A pod's terms; `shape_number` stands for its affinity and constraints as written."""
        template = self._templates.get((shape_number, identity.namespace))
        if template is None:
            _bound(self._templates)
            template = self._templates[(shape_number, identity.namespace)] = _template(spec, identity.namespace)
        # Beside the template, answers depend on which of the terms are about the pod itself.
        key = (
            shape_number,
            identity.namespace,
            tuple(_selects(term.selector, identity) for term, _ in template.affinity),
            tuple(_spread_key(constraint, selector, identity) for constraint, selector in template.spread),
        )
        found = self._terms.get(key)
        if found is None:
            _bound(self._terms)
            found = self._terms[key] = self._resolve(template, identity)
        return found

    def pod_set(self, *terms: PodTerm, counts_leaving: bool = True) -> PodSet:
        """The one object for a set of pods."""
        key = (terms, counts_leaving)
        found = self._sets.get(key)
        if found is None:
            _bound(self._sets)
            found = self._sets[key] = PodSet(self._number(), terms, counts_leaving)
        return found

    def _resolve(self, template: _Template, identity: PodIdentity) -> PodTerms:
        spread = [(raw, self._constraint(raw, selector, identity)) for raw, selector in template.spread]
        held = [self._held_term(term, key, keeps_away=True) for term, key in template.anti_affinity]
        held += [self._held_term(term, key, weight=HARD_AFFINITY_WEIGHT) for term, key in template.affinity]
        held += [self._held_term(term, key, weight=weight) for term, key, weight in template.preferred]
        return PodTerms(
            number=self._number(),
            affinity=tuple(AffinityTerm(self.pod_set(term), key) for term, key in template.affinity),
            affinity_pods=self.pod_set(*(term for term, _ in template.affinity)) if template.affinity else None,
            anti_affinity=tuple(AffinityTerm(self.pod_set(term), key) for term, key in template.anti_affinity),
            preferred=tuple(AffinityTerm(self.pod_set(term), key, weight) for term, key, weight in template.preferred),
            hard_spread=tuple(made for raw, made in spread if raw.when_unsatisfiable == "DoNotSchedule"),
            soft_spread=tuple(made for raw, made in spread if raw.when_unsatisfiable == "ScheduleAnyway"),
            names_spread=bool(spread),
            held=tuple(held),
        )

    def _constraint(
        self, raw: TopologySpreadConstraint, selector: LabelSelector | None, identity: PodIdentity
    ) -> SpreadConstraint:
        merged = _merged(raw, selector, identity)
        # countPodsMatchSelector: a selector without requirements counts no pod.
        counted = merged if merged is not None and merged.requirements else None
        term = PodTerm(counted, frozenset((identity.namespace,)))
        return SpreadConstraint(
            topology_key=raw.topology_key,
            max_skew=raw.max_skew,
            min_domains=1 if raw.min_domains is None else raw.min_domains,
            pods=self.pod_set(term, counts_leaving=False) if counted is not None else None,
            selects_itself=_selects(merged, identity),
            honors_affinity=(raw.node_affinity_policy or "Honor") == "Honor",
            honors_taints=raw.node_taints_policy == "Honor",
        )

    def _held_term(self, term: PodTerm, key: str, *, keeps_away: bool = False, weight: int = 0) -> HeldTerm:
        content = (term, key, keeps_away, weight)
        found = self._held.get(content)
        if found is None:
            _bound(self._held)
            found = self._held[content] = HeldTerm(self._number(), term, key, keeps_away, weight)
        return found

    def _number(self) -> int:
        number, self._next = self._next, self._next + 1
        return number


def has_terms(spec: PodSpec) -> bool:
    """Whether a pod wants anything of other pods."""
    affinity = spec.affinity or {}
    return bool(spec.topology_spread_constraints or affinity.get("podAffinity") or affinity.get("podAntiAffinity"))


def _bound(interned: dict[Any, Any]) -> None:
    if len(interned) >= MAX_INTERNED:
        interned.clear()


def _selects(selector: LabelSelector | None, identity: PodIdentity) -> bool:
    return selector is not None and selector.matches(identity.labels)


def _template(spec: PodSpec, namespace: str) -> _Template:
    affinity = spec.affinity or {}
    together, apart = affinity.get("podAffinity") or {}, affinity.get("podAntiAffinity") or {}
    preferred = [(raw, 1) for raw in together.get(PREFERRED) or ()] + [(raw, -1) for raw in apart.get(PREFERRED) or ()]
    return _Template(
        affinity=_terms(together.get(REQUIRED) or (), namespace),
        anti_affinity=_terms(apart.get(REQUIRED) or (), namespace),
        preferred=tuple(
            (*_term(raw.get("podAffinityTerm") or {}, namespace), sign * int(raw.get("weight") or 0))
            for raw, sign in preferred
        ),
        spread=tuple((raw, compile_label_selector(raw.label_selector)) for raw in spec.topology_spread_constraints),
    )


def _terms(raw_terms: Sequence[Mapping[str, Any]], namespace: str) -> tuple[tuple[PodTerm, str], ...]:
    return tuple(_term(raw, namespace) for raw in raw_terms)


def _term(raw: Mapping[str, Any], namespace: str) -> tuple[PodTerm, str]:
    given, raw_selector = raw.get("namespaces") or (), raw.get("namespaceSelector")
    own = (namespace,) if not given and raw_selector is None else given
    selector = compile_label_selector(raw.get("labelSelector"))
    return PodTerm(selector, frozenset(own), compile_label_selector(raw_selector)), str(raw.get("topologyKey", ""))


def _merged(
    raw: TopologySpreadConstraint, selector: LabelSelector | None, identity: PodIdentity
) -> LabelSelector | None:
    if selector is None:
        return None
    own = tuple(
        Requirement(key, "In", (identity.labels[key],)) for key in raw.match_label_keys if key in identity.labels
    )
    return LabelSelector(own + selector.requirements) if own else selector


def _spread_key(
    raw: TopologySpreadConstraint, selector: LabelSelector | None, identity: PodIdentity
) -> tuple[object, ...]:
    own = tuple(identity.labels.get(key) for key in raw.match_label_keys)
    return (*own, _selects(_merged(raw, selector, identity), identity))
