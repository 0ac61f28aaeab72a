"""Topics about which nodes a pod accepts, and which nodes accept it."""

from tests.oracle.draft import ZONES, Body, Draft

EFFECTS = ("NoSchedule", "NoExecute", "PreferNoSchedule")


def taints(draft: Draft) -> None:
    """Taints and tolerations, every operator, with and without value and effect."""
    rng = draft.rng
    for node in draft.some(draft.nodes, 0.5):
        node["spec"]["taints"] = [_taint(draft) for _ in range(rng.randint(1, 2))]
    for pod in draft.some(draft.all_pods, 0.7):
        tolerations = []
        for _ in range(rng.randint(1, 3)):
            toleration: Body = {}
            if draft.chance(0.85):
                toleration["key"] = rng.choice(("a", "b"))
            toleration["operator"] = "Exists" if "key" not in toleration else rng.choice(("Equal", "Exists", ""))
            if toleration["operator"] != "Exists":
                toleration["value"] = rng.choice(("1", "2", ""))
            if draft.chance(0.6):
                toleration["effect"] = rng.choice(EFFECTS)
            tolerations.append(toleration)
        pod["spec"]["tolerations"] = tolerations


def _taint(draft: Draft) -> Body:
    taint = {"key": draft.rng.choice(("a", "b")), "effect": draft.rng.choice(EFFECTS)}
    if draft.chance(0.7):
        taint["value"] = draft.rng.choice(("1", "2"))
    return taint


def unschedulable(draft: Draft) -> None:
    """Cordoned nodes, with or without the taint, and pods that tolerate it."""
    key = "node.kubernetes.io/unschedulable"
    for node in draft.some(draft.nodes, 0.4):
        node["spec"]["unschedulable"] = True
        if draft.chance(0.4):
            node["spec"].setdefault("taints", []).append({"key": key, "effect": "NoSchedule"})
    for pod in draft.some(draft.pods, 0.3):
        toleration: Body = {"key": key, "operator": "Exists"}
        if draft.chance(0.6):
            toleration["effect"] = draft.rng.choice(EFFECTS)
        pod["spec"].setdefault("tolerations", []).append(toleration)


def node_selector(draft: Draft) -> None:
    """spec.nodeSelector."""
    for pod in draft.some(draft.pods, 0.5):
        pod["spec"]["nodeSelector"] = draft.rng.choice(
            ({"disk": "ssd"}, {"disk": "hdd", "size": "5"}, {"topology.kubernetes.io/zone": "z1"}, {"none": ""}, {})
        )


def node_affinity(draft: Draft) -> None:
    """Required and preferred node affinity: every operator, empty terms, keys that are not there."""
    rng = draft.rng
    for pod in draft.some(draft.pods, 0.7):
        affinity: Body = {}
        if draft.chance(0.9):
            terms = [_term(draft) for _ in range(rng.randint(1, 3))]
            affinity["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
        if draft.chance(0.3):
            affinity["preferredDuringSchedulingIgnoredDuringExecution"] = [{"weight": 10, "preference": _term(draft)}]
        pod["spec"].setdefault("affinity", {})["nodeAffinity"] = affinity


def _term(draft: Draft) -> Body:
    rng = draft.rng
    term: Body = {}
    if draft.chance(0.9):
        term["matchExpressions"] = [_expression(draft) for _ in range(rng.randint(1, 2))]
    if draft.chance(0.15):
        operator = rng.choice(("In", "NotIn"))
        names = [node["metadata"]["name"] for node in rng.sample(draft.nodes, 1)]
        term["matchFields"] = [{"key": "metadata.name", "operator": operator, "values": names}]
    return term


def _expression(draft: Draft) -> Body:
    rng = draft.rng
    key = rng.choice(("disk", "size", "topology.kubernetes.io/zone", "missing"))
    operator = rng.choice(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"))
    if operator in ("Exists", "DoesNotExist"):
        return {"key": key, "operator": operator}
    if operator in ("Gt", "Lt"):
        return {"key": "size", "operator": operator, "values": [rng.choice(("0", "5", "-3", "7"))]}
    pool = {"disk": ("ssd", "hdd"), "size": ("1", "5", "x"), "missing": ("y",)}.get(key, ZONES)
    return {"key": key, "operator": operator, "values": rng.sample(pool, rng.randint(1, len(pool)))}


def declared_features(draft: Draft) -> None:
    """Fields that imply features, and nodes that declare them or not."""
    rng = draft.rng
    known = ("RestartAllContainersOnContainerExits", "UserNamespacesHostNetworkSupport", "ExtendWebSocketsToKubelet")
    for node in draft.some(draft.nodes, 0.7):
        # Sorted, as the API wants them.
        node["status"]["declaredFeatures"] = sorted(rng.sample(known, rng.randint(0, 3)))
    for pod in draft.some(draft.pods, 0.4):
        rule = {
            "action": rng.choice(("RestartAllContainers", "Restart")),
            "exitCodes": {"operator": "In", "values": [1]},
        }
        pod["spec"]["containers"][0] |= {"restartPolicy": "Never", "restartPolicyRules": [rule]}
    for pod in draft.some(draft.pods, 0.4):
        pod["spec"]["hostNetwork"] = draft.chance(0.7)
        if draft.chance(0.8):
            pod["spec"]["hostUsers"] = draft.chance(0.4)


def node_names(draft: Draft) -> None:
    """Affinity to names alone, as DaemonSets have it: known names, unknown ones, and terms that contradict."""
    rng = draft.rng
    names = [node["metadata"]["name"] for node in draft.nodes] + ["nowhere"]
    for pod in draft.some(draft.pods, 0.5):
        terms = []
        for _ in range(rng.randint(1, 2)):
            asked = [rng.choice(names) for _ in range(rng.randint(1, 2))]
            terms.append(
                {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]} for name in asked]}
            )
        required = {"nodeSelectorTerms": terms}
        pod["spec"].setdefault("affinity", {})["nodeAffinity"] = {
            "requiredDuringSchedulingIgnoredDuringExecution": required
        }
