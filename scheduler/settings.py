"""Every setting of the scheduler, with unit, default and the reason for the default.

Owns validation. Read once at start (`python -m scheduler --config FILE.yaml`, or HEADRACE_SCHEDULER_*
variables), printed at start; nothing in here is secret.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from reprlib import Repr
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from api import names
from scheduler.core.engine_state import EngineSettings
from scheduler.core.residency_table import ReadSpeeds
from scheduler.errors import ConfigurationError

# What the API server takes as an event's reportingController and as a label key: [prefix/]name.
_QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_DNS = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _qualified(text: str) -> str:
    if not _QUALIFIED.fullmatch(text):
        raise ValueError("a qualified name is needed, like headrace-scheduler or topology.kubernetes.io/zone")
    return text


def _dns(text: str) -> str:
    if not _DNS.fullmatch(text):
        raise ValueError("a name in lower case letters, digits and hyphens is needed, like headrace-scheduler")
    return text


QualifiedName = Annotated[str, AfterValidator(_qualified)]
ObjectName = Annotated[str, AfterValidator(_dns)]


def _no_switch(value: Any) -> Any:
    # True is a number to Python, and 1 to whoever reads it as one: `binds_in_flight: yes` would be 1.
    if isinstance(value, bool):
        raise ValueError("a number is needed, not yes or no")
    return value


IsNumber = BeforeValidator(_no_switch)
Positive = Annotated[float, IsNumber, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, IsNumber, Field(ge=0, le=10_000)]
# Longer is a slip of the pen, and more than timers take.
Seconds = Annotated[float, IsNumber, Field(gt=0, le=365 * 86_400)]
AtOnce = Annotated[int, IsNumber, Field(ge=1, le=1024)]
FewAtOnce = Annotated[int, IsNumber, Field(ge=1, le=64)]
# What pydantic says, for people who write YAML.
_SAID = {
    "missing": "it must be given",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "float_parsing_size": "a smaller number is needed",
    "finite_number": "a finite number is needed",
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "int_parsing_size": "a smaller number is needed",
    "int_from_float": "a whole number is needed",
    "bool_type": "true or false is needed",
    "bool_parsing": "true or false is needed",
    "string_type": "a text is needed; put it in quotes if it looks like something else",
    "tuple_type": "a list is needed, like [a, b]",
    "model_type": "a mapping is needed, like {name: value}",
    "dict_type": "a mapping is needed, like {name: value}",
    "path_type": "the path of a file is needed",
}
# Of a value only as much is said as a line holds: YAML's aliases write lists of lists without end in a few bytes.
_SHORT = Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


class Weights(BaseModel):
    """Points that a score's full scale costs. Only their ratios matter."""

    model_config = ConfigDict(extra="forbid")

    stage_in: Weight = 100.0
    """Full scale: all data from the under store. 100 against 1 for balance: one percent of a cold start
    outweighs a node that is wholly taken, so seconds decide and the others break ties."""
    cache_room: Weight = 1.0
    """Full scale: as many seconds for later readers as a cold start takes. In simulations with many datasets 1 moves
    half the bytes of 0, and more (2 to 8) makes jobs slower: seconds later readers may save then cost this one
    real ones (docs/evidence.md has the sweep)."""
    gpu_fit: Weight = 5.0
    """Full scale: as many GPUs made useless to the cluster's typical pods as its largest node has, or a pod without
    GPUs on a GPU node. Worth 5 % of a cold start: fragmentation costs later jobs, minutes of stage-in cost this one."""
    preferences: Weight = 2.0
    """Full scale: all preferred node affinity missed, or the most soft taints. kube-scheduler's weight for
    node affinity against 1 for least allocated."""
    avoided_nodes: Weight = 200.0
    """Full scale: a node the pod names as one to avoid (plugins/avoided_nodes.py). Twice a cold start: the bytes on a
    node that loses pods are no reason to go there, and it is taken where nothing else fits."""
    pod_affinity: Weight = 2.0
    """Full scale: the node with the least of the pod's preferred (anti-)affinity, and of other pods' about it,
    against the node with the most. kube-scheduler's weight, equal to that of node affinity."""
    spread: Weight = 2.0
    """Full scale: a node as far from even spread as the fullest one is from empty. kube-scheduler's weight; it is
    more than balance, so that replicas part before nodes are filled evenly."""
    balance: Weight = 1.0
    """Full scale: cpu, memory and pod slots wholly taken. Where GPU pods run, GPU nodes are left to gpu_fit."""


class Profile(BaseModel):
    """Another schedulerName served by the same process, on the same view of the cluster, with weights of its own."""

    model_config = ConfigDict(extra="forbid")

    scheduler_name: QualifiedName
    """`spec.schedulerName` of its pods."""
    weights: Weights = Field(default_factory=Weights)
    """Those not given are the defaults, not those of the main profile: a profile reads the same wherever it stands."""


class Speeds(BaseModel):
    """Bytes per second assumed where a NodeCache has no measurement (0)."""

    model_config = ConfigDict(extra="forbid")

    mem_bytes_per_second: Positive = 4 * 2.0**30
    """Page cache through one reader: 2-6 GiB/s on common servers."""
    ssd_bytes_per_second: Positive = 1.5 * 2.0**30
    """One mid-range NVMe disk, sequential."""
    hdd_bytes_per_second: Positive = 160 * 2.0**20
    """One disk, sequential."""
    network_bytes_per_second: Positive = 1.1 * 2.0**30
    """10 Gbit/s, the least a GPU node has."""
    origin_bytes_per_second: Positive = 100 * 2.0**20
    """One node's share of an object store: one to two orders of magnitude below a local disk."""


class Settings(BaseSettings):
    """All settings."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_SCHEDULER_", env_nested_delimiter="__", extra="forbid")

    scheduler_name: QualifiedName = names.DEFAULT_SCHEDULER_NAME
    """`spec.schedulerName` of the pods we take."""
    weights: Weights = Field(default_factory=Weights)
    profiles: Annotated[tuple[Profile, ...], Field(max_length=16)] = ()
    """More scheduler names with other weights: for packing, say, beside one for data."""
    speeds: Speeds = Field(default_factory=Speeds)
    stage_in_floor_seconds: Seconds = 1.0
    """A cold start shorter than this counts as this long: below, spreading matters more than data."""
    min_saving_seconds: Seconds = 1.0
    """maxWaitSeconds: waiting for a warm node must save at least this."""
    gang_bind_seconds: Seconds = 30.0
    """A gang that is not whole this long after its first bind was sent is taken back."""
    volume_bind_seconds: Seconds = 600.0
    """Claims that wait for their first consumer must be bound this long after a node was chosen, or the pod is tried
    again: kube-scheduler's default."""
    topology_keys: Annotated[tuple[QualifiedName, ...], Field(max_length=8)] = (
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "topology.headrace.dev/block",
        "topology.headrace.dev/rack",
    )
    """Node label keys from the widest level to the narrowest: a domain is the path of their values, so racks of two
    zones may have one name. The last one is Volcano's tier 1. Levels that no node has cost nothing."""
    admits_volcano_groups: bool = False
    """Volcano's job controller makes pods only for PodGroups in phase Inqueue, and no PodGroup says which scheduler
    it is for. On: every Volcano PodGroup is admitted at once; right where Volcano's own scheduler does not run. Off:
    only those that have pods of ours."""
    reads_fluid: bool = False
    """Where Fluid is installed: its Datasets and its labels on nodes count as Datasets and caches of ours do, and pods
    with its volumes are placed by them. Needs list and watch of datasets in data.fluid.io."""
    gated_grace_seconds: Seconds = 5.0
    """A gang's members are told what they wait for after this, as kube-scheduler does since 1.35."""
    first_backoff_seconds: Seconds = 1.0
    max_backoff_seconds: Seconds = 10.0
    """Backoff of a refused pod: kube-scheduler's defaults."""
    flush_seconds: Seconds = 300.0
    """A refused pod is tried again after this whatever happened: kube-scheduler's default."""
    binds_in_flight: AtOnce = 64
    """Bind calls at once; more only lengthens the API server's queue (measured on 2 cores)."""
    evictions_in_flight: AtOnce = 16
    """Evictions at once: kube-scheduler's parallelism."""
    publishers: FewAtOnce = 4
    """Condition and PodGroup patches at once, off the bind path."""
    event_senders: FewAtOnce = 2
    """Events at once; few, so that they fill the gaps binds leave."""
    qps: Positive | None = None
    """Requests a second to the API server; None: the API server's own limits are enough."""
    burst: Annotated[int, IsNumber, Field(ge=1, le=1_000_000)] = 1000
    request_seconds: Seconds = 30.0
    """Deadline of one request, its retries included."""
    leader_elect: bool = True
    lease_namespace: ObjectName = "kube-system"
    lease_name: ObjectName = "headrace-scheduler"
    """Our own Lease; kube-scheduler's is another."""
    metrics: str = ""
    """HOST:PORT of /metrics, /healthz and /readyz; empty: none."""
    extender: str = ""
    """HOST:PORT of the scheduler extender for an unmodified kube-scheduler; empty: none."""
    extender_certificate: Path | None = None
    extender_key: Path | None = None
    """PEM files: the extender speaks TLS when they are given, and reads them again when they change."""
    log_format: str = Field(default="console", pattern="^(console|json)$")
    """`json` for a log collector."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        names_given = self.scheduler_names
        twice = {name for name in names_given if names_given.count(name) > 1}
        if twice:
            raise ValueError(
                f"profiles: scheduler_name {', '.join(sorted(twice))} is given twice; every profile needs its own"
            )
        return self

    @model_validator(mode="after")
    def _belong_together(self) -> Self:
        if len(set(self.topology_keys)) < len(self.topology_keys):
            raise ValueError(f"topology_keys: {', '.join(self.topology_keys)}: every level needs a key of its own")
        if self.first_backoff_seconds > self.max_backoff_seconds:
            raise ValueError(
                f"first_backoff_seconds {self.first_backoff_seconds:g} is more than max_backoff_seconds "
                f"{self.max_backoff_seconds:g}"
            )
        if (self.extender_certificate is None) != (self.extender_key is None):
            raise ValueError("extender_certificate and extender_key must be given together")
        if self.extender_certificate is not None and not self.extender:
            raise ValueError("extender_certificate is given, but extender, the HOST:PORT to serve, is not")
        return self

    @property
    def scheduler_names(self) -> tuple[str, ...]:
        """All names whose pods are ours, the main one first."""
        return (self.scheduler_name, *(profile.scheduler_name for profile in self.profiles))


def engine_settings(settings: Settings) -> EngineSettings:
    """The core's part of the settings."""
    speeds = settings.speeds
    return EngineSettings(
        speeds=ReadSpeeds(
            mem=speeds.mem_bytes_per_second,
            ssd=speeds.ssd_bytes_per_second,
            hdd=speeds.hdd_bytes_per_second,
            network=speeds.network_bytes_per_second,
            origin=speeds.origin_bytes_per_second,
        ),
        gang_bind_seconds=settings.gang_bind_seconds,
        volume_bind_seconds=settings.volume_bind_seconds,
        min_saving_seconds=settings.min_saving_seconds,
        gated_grace_seconds=settings.gated_grace_seconds,
        topology_keys=settings.topology_keys,
        admits_volcano_groups=settings.admits_volcano_groups,
        reads_fluid=settings.reads_fluid,
        first_backoff_seconds=settings.first_backoff_seconds,
        max_backoff_seconds=settings.max_backoff_seconds,
        flush_seconds=settings.flush_seconds,
    )


def load(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """Settings from defaults, environment, a YAML file and arguments, the later the stronger.

    Raises ConfigurationError with one sentence a problem.
    """
    values: dict[str, Any] = {}
    if config is not None:
        values = _read(config)
    values |= {key: value for key, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise ConfigurationError("settings: " + "; ".join(map(_problem, error.errors()))) from None
    except SettingsError as error:
        raise ConfigurationError(
            f"settings: {error}: {error.__cause__}; HEADRACE_SCHEDULER_* variables of lists and mappings hold JSON"
        ) from None


def _problem(item: Mapping[str, Any]) -> str:
    where, kind = ".".join(map(str, item["loc"])), item["type"]
    got = f"(got {_SHORT.repr(item['input'])})"
    if kind == "extra_forbidden":
        return f"{where}: {_no_such(item['loc'])} {got}"
    if kind == "missing":
        return f"{where}: {_SAID[kind]}"
    if kind == "string_pattern_mismatch":
        return f"{where}: one of {', '.join(item['ctx']['pattern'].strip('^()$').split('|'))} is needed {got}"
    # A validator of the whole names what it is about itself.
    said = str(item["ctx"]["error"]) if kind == "value_error" else _SAID.get(kind, item["msg"])
    said = said.replace("Input should be", "it must be")
    return f"{where}: {said} {got}" if where else said


def _no_such(path: Sequence[int | str]) -> str:
    """There is no such setting; those that may be meant."""
    name = str(path[-1])
    if name in ("apiVersion", "kind"):
        return "this is a file of settings, not an object of the API or a KubeSchedulerConfiguration; leave it out"
    models: dict[str, type[BaseModel]] = {"weights": Weights, "profiles": Profile, "speeds": Speeds}
    # The nearest mapping it stands in: profiles.0.weights.x is one of Weights.
    known = next((models[word] for word in map(str, reversed(path[:-1])) if word in models), Settings).model_fields
    # gpuFit and gpu-fit are gpu_fit.
    near = get_close_matches(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).replace("-", "_").lower(), known, n=1)
    return f"there is no such setting; {f'is {near[0]} meant?' if near else 'known are ' + ', '.join(known)}"


def _read(config: Path) -> dict[str, Any]:
    try:
        # A subclass of the safe loader, which only adds a check.
        values = yaml.load(config.read_text(encoding="utf-8"), _Loader) or {}
    except OSError as error:
        raise ConfigurationError(f"--config {config}: {error.strerror}; name a YAML file") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"--config {config} is not UTF-8 (byte {error.start}); name a YAML file") from None
    except RecursionError:
        raise ConfigurationError(f"--config {config} is not valid YAML: nested too deeply") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"--config {config} is not valid YAML{_yaml_problem(error)}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"--config {config} must hold a mapping of settings, like `weights: {{gpu_fit: 10}}`")
    return {str(key): value for key, value in values.items()}


class _Loader(yaml.SafeLoader):
    """YAML in which no mapping has a key twice: the last of the two would win without a word."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    loader.flatten_mapping(node)
    seen: set[str] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _yaml_problem(error: yaml.YAMLError) -> str:
    """Where and what, in one line."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return ": " + " ".join(str(error).split())
    return f" at line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', '')}"
