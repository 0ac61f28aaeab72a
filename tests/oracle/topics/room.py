"""Topics about what pods take: resources of every kind, and ports."""

from tests.oracle.draft import Body, Draft

GPU = "nvidia.com/gpu"


def _requests(pod: Body) -> Body:
    found: Body = pod["spec"]["containers"][0]["resources"]["requests"]
    return found


def extended_resources(draft: Draft) -> None:
    """GPUs, huge pages, ephemeral storage and a resource nobody has."""
    rng = draft.rng
    for node in draft.some(draft.nodes, 0.6):
        room = node["status"]["allocatable"]
        room |= {
            GPU: str(rng.choice((0, 1, 4))),
            "ephemeral-storage": "10Gi",
            "hugepages-2Mi": rng.choice(("0", "64Mi")),
        }
    for pod in draft.some(draft.all_pods, 0.5):
        asked = rng.choice(
            ({GPU: "1"}, {GPU: "2"}, {"hugepages-2Mi": "32Mi"}, {"ephemeral-storage": "6Gi"}, {"example.com/none": "1"},
             {GPU: "0"}, {"ephemeral-storage": "0"})
        )  # fmt: skip
        _requests(pod).update(asked)


def init_containers(draft: Draft) -> None:
    """Init containers and sidecars: their peak counts, sidecars add up."""
    rng = draft.rng
    for pod in draft.some(draft.all_pods, 0.5):
        inits = []
        for index in range(rng.randint(1, 3)):
            requests = {"cpu": rng.choice(("100m", "1", "3")), "memory": rng.choice(("64Mi", "2Gi"))}
            init: Body = {"name": f"i{index}", "image": "image", "resources": {"requests": requests}}
            if draft.chance(0.5):
                init["restartPolicy"] = "Always"
            inits.append(init)
        pod["spec"]["initContainers"] = inits
        if draft.chance(0.4):
            pod["spec"]["containers"].append(
                {"name": "second", "image": "image", "resources": {"requests": {"cpu": "500m"}}}
            )


def pod_level_resources(draft: Draft) -> None:
    """spec.resources overrides what containers ask of the same resource."""
    for pod in draft.some(draft.all_pods, 0.4):
        requests = {"cpu": draft.rng.choice(("50m", "2", "3500m"))}
        if draft.chance(0.5):
            requests["memory"] = draft.rng.choice(("64Mi", "3Gi"))
        pod["spec"]["resources"] = {"requests": requests}


def overhead(draft: Draft) -> None:
    """spec.overhead comes on top."""
    for pod in draft.some(draft.all_pods, 0.4):
        pod["spec"]["overhead"] = {"cpu": "250m", "memory": draft.rng.choice(("1Mi", "1Gi"))}


def resize(draft: Draft) -> None:
    """Bound pods in the middle of a resize: spec, allocated and actual differ."""
    rng = draft.rng
    for pod in draft.some(draft.bound, 0.6):
        status: Body = {"name": "main"}
        if draft.chance(0.7):
            status["resources"] = {"requests": {"cpu": rng.choice(("50m", "2")), "memory": "256Mi"}}
        if draft.chance(0.6):
            status["allocatedResources"] = {"cpu": rng.choice(("80m", "3")), "memory": rng.choice(("1Mi", "2Gi"))}
        pod["status"]["containerStatuses"] = [status]
        if draft.chance(0.3):
            reason = rng.choice(("Infeasible", "Deferred"))
            pod["status"]["conditions"] = [{"type": "PodResizePending", "status": "True", "reason": reason}]


def host_ports(draft: Draft) -> None:
    """Ports on the node, by address and protocol."""
    rng = draft.rng
    for pod in draft.some(draft.all_pods, 0.6):
        ports = []
        for _ in range(rng.randint(1, 2)):
            port: Body = {"containerPort": 80, "hostPort": rng.choice((80, 81, 0))}
            if draft.chance(0.5):
                port["protocol"] = rng.choice(("TCP", "UDP"))
            if draft.chance(0.4):
                port["hostIP"] = rng.choice(("127.0.0.1", "0.0.0.0", "10.0.0.1"))
            ports.append(port)
        target = pod["spec"]["containers"][0]
        inits = pod["spec"].get("initContainers")
        if inits and draft.chance(0.3):
            target = rng.choice(inits)
        target["ports"] = ports
        if draft.chance(0.1):
            pod["spec"]["hostNetwork"] = True
