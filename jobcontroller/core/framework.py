"""What the core needs of a framework.

Owns the protocol and its inputs; the frameworks themselves are in frameworks/, one file each, and are handed
in with what was observed. See README.md, "how to add a framework"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.attempts import host_name


@dataclass(frozen=True, slots=True)
class Rendezvous:
    """What the pods of one attempt are told to find each other by."""

    job_name: str
    attempt: int
    #: pods by role, roles without pods left out
    replicas: Mapping[str, int]
    port: int
    spec: TrainingJobSpec

    def host(self, role: str, index: int) -> str:
        """DNS name of a pod of this attempt, within its namespace."""
        return host_name(self.job_name, role, index, self.attempt)

    @property
    def pods(self) -> int:
        """All pods of the attempt."""
        return sum(self.replicas.values())


@dataclass(frozen=True, slots=True)
class RoleCounts:
    """Pods of one role: wanted, and how many of them succeeded."""

    replicas: int
    succeeded: int

    @property
    def all_succeeded(self) -> bool:
        """Whether none is left."""
        return self.succeeded >= self.replicas


@dataclass(frozen=True, slots=True)
class Equipment:
    """Files the pods of an attempt find beside those of their images."""

    #: directory of `config_files` (name → text), in pods of `config_roles`
    config_directory: str
    config_files: Mapping[str, str]
    config_roles: frozenset[str]
    #: directory of the job's ssh keys, in every pod
    ssh_directory: str


class Framework(Protocol):
    """One way to run a distributed job. Pure; one instance serves all jobs."""

    @property
    def name(self) -> str:
        """As in `spec.framework`."""
        ...

    @property
    def roles(self) -> tuple[str, ...] | None:
        """Roles it knows; None = any."""
        ...

    @property
    def reserved_env(self) -> frozenset[str]:
        """Names of environment variables a user may not set."""
        ...

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """One sentence naming the field that is wrong, or None."""
        ...

    def port(self, spec: TrainingJobSpec) -> int | None:
        """The rendezvous port the user asked for."""
        ...

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """The environment of one pod, exact names."""
        ...

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """Whether the job is done, by the framework's own rule (successPolicy Default)."""
        ...


@runtime_checkable
class Resizable(Framework, Protocol):
    """A framework that lets the members of an attempt change while it runs."""

    def resizes(self, spec: TrainingJobSpec) -> bool:
        """Whether this job's members that run go on when others are lost or join."""
        ...

    def anchor(self, spec: TrainingJobSpec) -> int | None:
        """The index of the Worker no other can do without; None = there is none."""
        ...


@runtime_checkable
class Equipped(Framework, Protocol):
    """A framework that needs more than variables."""

    def with_defaults(self, spec: TrainingJobSpec) -> TrainingJobSpec:
        """The spec with what the user left open; the stored one stays as it is."""
        ...

    def equipment(self, rendezvous: Rendezvous) -> Equipment:
        """The files of one attempt."""
        ...


def is_equipped(framework: Framework | None) -> TypeGuard[Equipped]:
    """Whether its pods need files and defaults."""
    return framework is not None and _follows(framework, Equipped)


def is_resizable(framework: Framework | None) -> TypeGuard[Resizable]:
    """Whether members of an attempt may change while it runs."""
    return framework is not None and _follows(framework, Resizable)


#: Asked some times a decision, of a few classes; Python looks through all attributes each time.
_FOLLOWS: dict[tuple[type, type], bool] = {}


def _follows(framework: Framework, protocol: type) -> bool:
    key = type(framework), protocol
    if key not in _FOLLOWS:
        _FOLLOWS[key] = isinstance(framework, protocol)
    return _FOLLOWS[key]
