"""A container's environment, from its spec and the objects it names.

Owns env, envFrom, `$(VAR)` expansion and downward fields. Does not fetch objects: the
shell passes the ones that exist. Raises ConfigError naming the field. Invariant: nothing of
the agent's own environment gets in except what is passed as `base`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING

from api import quantities
from headrace.node.core.pod_spec import Container, EnvVarSource, KeySelector, Pod, ResourceFieldRef
from headrace.node.errors import ConfigError

#: As kubelet: a name ends at the first ")"; what is not a known name stays as it is.
_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_SUBSCRIPT = re.compile(r"^metadata\.(labels|annotations)\['([^']*)'\]$")


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What only the node knows of a pod."""

    node_name: str
    host_ip: str
    pod_ip: str
    #: allocatable of the node, as quantities: the limit of a container that has none.
    allocatable: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class KeyedObjects:
    """Data of the Secrets and ConfigMaps of a pod's namespace that exist, by name."""

    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: Mapping[str, Mapping[str, bytes]]


def expand(text: str, values: Mapping[str, str]) -> str:
    """Return `text` with `$(NAME)` replaced when NAME is known; `$$` becomes `$`, as in Kubernetes."""

    def replace(match: re.Match[str]) -> str:
        if match.group(1) == "$":
            return "$"
        return values.get(match.group(2), match.group(0))

    return _REFERENCE.sub(replace, text)


def build(
    pod: Pod, container: Container, facts: PodFacts, objects: KeyedObjects, base: Mapping[str, str]
) -> dict[str, str]:
    """Return the container's environment; later sources win: base, envFrom, env.

    Raises ConfigError for a missing object, key or field."""
    env = dict(base)
    for source in container.env_from:
        for kind, reference, found in (
            ("configmap", source.config_map_ref, objects.config_maps),
            ("secret", source.secret_ref, objects.secrets),
        ):
            if reference is None:
                continue
            data = found.get(reference.name)
            if data is None:
                if reference.optional:
                    continue
                raise ConfigError(f'{kind} "{reference.name}" not found')
            env |= {source.prefix + key: _text(value) for key, value in sorted(data.items())}
    for variable in container.env:
        if variable.value_from is None:
            env[variable.name] = expand(variable.value, env)
        else:
            value = _resolve(pod, container, facts, objects, variable.value_from)
            if value is not None:
                env[variable.name] = value
    return env


def _resolve(
    pod: Pod, container: Container, facts: PodFacts, objects: KeyedObjects, source: EnvVarSource
) -> str | None:
    if source.field_ref is not None:
        return pod_field(pod, facts, source.field_ref.field_path)
    if source.resource_field_ref is not None:
        return resource_field(pod, container, facts, source.resource_field_ref)
    if source.secret_key_ref is not None:
        return _key(source.secret_key_ref, "secret", objects.secrets, pod.metadata.namespace)
    if source.config_map_key_ref is not None:
        return _key(source.config_map_key_ref, "configmap", objects.config_maps, pod.metadata.namespace)
    raise ConfigError(f"env of container {container.name!r} has a valueFrom that process nodes do not know")


def _key(selector: KeySelector, kind: str, found: Mapping[str, Mapping[str, bytes]], namespace: str) -> str | None:
    data = found.get(selector.name)
    if data is None:
        if selector.optional:
            return None
        raise ConfigError(f'{kind} "{selector.name}" not found')
    if selector.key not in data:
        if selector.optional:
            return None
        word = "Secret" if kind == "secret" else "ConfigMap"
        raise ConfigError(f"couldn't find key {selector.key} in {word} {namespace}/{selector.name}")
    return _text(data[selector.key])


def _text(value: bytes) -> str:
    # The kernel ends a variable at a zero byte.
    return value.decode("utf-8", errors="surrogateescape").split("\0", 1)[0]


def pod_field(pod: Pod, facts: PodFacts, path: str) -> str:
    """Return a downward API field as text; ConfigError for one that is not known."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        is_label = subscript.group(1) == "labels"
        values = pod.metadata.labels if is_label else pod.metadata.annotations
        return values.get(subscript.group(2), "")
    simple: dict[str, Callable[[], str]] = {
        "metadata.name": lambda: pod.metadata.name,
        "metadata.namespace": lambda: pod.metadata.namespace,
        "metadata.uid": lambda: pod.metadata.uid,
        "metadata.labels": lambda: _pairs(pod.metadata.labels),
        "metadata.annotations": lambda: _pairs(pod.metadata.annotations),
        "spec.nodeName": lambda: facts.node_name,
        "spec.serviceAccountName": lambda: pod.spec.service_account_name,
        "status.hostIP": lambda: facts.host_ip,
        "status.hostIPs": lambda: facts.host_ip,
        "status.podIP": lambda: facts.pod_ip,
        "status.podIPs": lambda: facts.pod_ip,
    }
    if path not in simple:
        raise ConfigError(f"fieldRef {path!r} is not known; use one of {', '.join(sorted(simple))}")
    return simple[path]()


def _pairs(values: Mapping[str, str]) -> str:
    escaped = {
        key: value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, value in values.items()
    }
    return "\n".join(f'{key}="{value}"' for key, value in sorted(escaped.items()))


def resource_field(pod: Pod, container: Container, facts: PodFacts, reference: ResourceFieldRef) -> str:
    """Return a request or limit in units of its divisor, rounded up, as kubelet does."""
    if reference.container_name and reference.container_name != container.name:
        everyone = [*pod.spec.containers, *pod.spec.init_containers]
        chosen = next((other for other in everyone if other.name == reference.container_name), None)
        if chosen is None:
            raise ConfigError(f"resourceFieldRef names container {reference.container_name!r}, which does not exist")
        container = chosen
    kind, _, resource = reference.resource.partition(".")
    if kind not in ("limits", "requests") or not resource:
        raise ConfigError(f"resourceFieldRef {reference.resource!r} is not known; write limits.cpu or requests.memory")
    values = container.resources.limits if kind == "limits" else container.resources.requests
    default = facts.allocatable.get(resource, "0") if kind == "limits" else "0"
    value = quantities.parse(values.get(resource, default))
    divisor = quantities.parse(reference.divisor)
    return str(int((value / (divisor or 1)).to_integral_value(rounding=ROUND_CEILING)))
