"""Topics about pods near pods: affinity, anti-affinity, spreading."""

from tests.oracle.draft import APPS, NAMESPACES, Body, Draft

KEYS = ("kubernetes.io/hostname", "topology.kubernetes.io/zone", "disk", "missing")


def _selector(draft: Draft) -> Body | None:
    rng = draft.rng
    kind = rng.randrange(6)
    if kind == 0:
        return {}
    if kind == 1:
        return {"matchExpressions": [{"key": "app", "operator": rng.choice(("Exists", "DoesNotExist"))}]}
    if kind == 2:
        values = rng.sample(APPS, rng.randint(1, 2))
        return {"matchExpressions": [{"key": "app", "operator": rng.choice(("In", "NotIn")), "values": values}]}
    if kind == 3 and draft.chance(0.3):
        return None
    return {"matchLabels": {"app": rng.choice(APPS)}}


def _term(draft: Draft) -> Body:
    rng = draft.rng
    term: Body = {"topologyKey": rng.choices(KEYS, (5, 5, 2, 1))[0]}
    selector = _selector(draft)
    if selector is not None:
        term["labelSelector"] = selector
    if draft.chance(0.3):
        term["namespaces"] = rng.sample(NAMESPACES, rng.randint(1, 2))
    if draft.chance(0.25):
        term["namespaceSelector"] = rng.choice(
            (
                {},
                {"matchLabels": {"tier": "x"}},
                # These hold for no labels at all, which 1.36 takes for every namespace in a pod's own terms.
                {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
                {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x"]}]},
            )
        )
    return term


def _scatter(draft: Draft) -> None:
    """Some pods live in a namespace without an object, and some are being deleted."""
    for pod in draft.some(draft.all_pods, 0.05):
        pod["metadata"]["namespace"] = "lost"
    for pod in draft.some(draft.bound, 0.1):
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"


def _affinity(draft: Draft, pod: Body, kind: str) -> None:
    affinity = pod["spec"].setdefault("affinity", {}).setdefault(kind, {})
    if draft.chance(0.85):
        affinity["requiredDuringSchedulingIgnoredDuringExecution"] = [
            _term(draft) for _ in range(draft.rng.choice((1, 1, 2)))
        ]
    if draft.chance(0.3):
        affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": draft.rng.randint(1, 100), "podAffinityTerm": _term(draft)}
        ]


def pod_affinity(draft: Draft) -> None:
    """Required affinity of pods to be judged, and of bound ones (which must not matter)."""
    _scatter(draft)
    for pod in draft.some(draft.pods, 0.6) + draft.some(draft.bound, 0.2):
        _affinity(draft, pod, "podAffinity")


def pod_anti_affinity(draft: Draft) -> None:
    """Required anti-affinity, of pods to be judged and, by symmetry, of bound ones."""
    _scatter(draft)
    for pod in draft.some(draft.pods, 0.5) + draft.some(draft.bound, 0.2):
        _affinity(draft, pod, "podAntiAffinity")


def spread(draft: Draft) -> None:
    """Spread constraints: skew, minDomains, both node policies, matchLabelKeys; some bound pods are leaving.

    In half of the clusters all pods share a namespace and most an app, so that skews come to be.
    """
    rng = draft.rng
    _scatter(draft)
    if draft.chance(0.5):
        for pod in draft.all_pods:
            pod["metadata"]["namespace"] = NAMESPACES[0]
            if draft.chance(0.6):
                pod["metadata"]["labels"]["app"] = APPS[0]
    for pod in draft.some(draft.pods, 0.7):
        constraints = []
        for key in rng.sample(KEYS if draft.chance(0.2) else KEYS[:3], rng.choice((1, 1, 2, 3))):
            constraint: Body = {
                "maxSkew": rng.choice((1, 1, 2, 5)),
                "topologyKey": key,
                "whenUnsatisfiable": rng.choices(("DoNotSchedule", "ScheduleAnyway"), (5, 1))[0],
            }
            selector = {"matchLabels": {"app": APPS[0]}} if draft.chance(0.4) else _selector(draft)
            if selector is not None:
                constraint["labelSelector"] = selector
            if constraint["whenUnsatisfiable"] == "DoNotSchedule" and draft.chance(0.3):
                constraint["minDomains"] = rng.choice((1, 2, 5))
            for policy in ("nodeAffinityPolicy", "nodeTaintsPolicy"):
                if draft.chance(0.4):
                    constraint[policy] = rng.choice(("Honor", "Ignore"))
            if selector and draft.chance(0.2):
                constraint["matchLabelKeys"] = [rng.choice(("track", "absent"))]
            constraints.append(constraint)
        pod["spec"]["topologySpreadConstraints"] = constraints
