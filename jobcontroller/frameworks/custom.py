"""Custom: any roles; pods are told each role's hosts and nothing else.

Owns the names `HEADRACE_<ROLE>_HOSTS` (comma-separated host names in order of index) and
`HEADRACE_RENDEZVOUS_PORT`, a port nobody else of this cluster is likely to use."""

from __future__ import annotations

from collections.abc import Mapping

from api.training_v1alpha1 import TrainingJobSpec
from jobcontroller.core.framework import Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

#: the host lists of a thousand pods would not fit a process' environment
MAX_LISTED_HOSTS = 256


class Custom:
    """`spec.framework: Custom`."""

    name = "Custom"
    roles: tuple[str, ...] | None = None
    reserved_env = frozenset({"HEADRACE_RENDEZVOUS_PORT"})

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """Anything goes."""
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """Always derived."""
        return None

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """Hosts by role; only the first 256 of a role are listed."""
        hosts = {
            f"HEADRACE_{name.upper()}_HOSTS": ",".join(
                rendezvous.host(name, i) for i in range(min(count, MAX_LISTED_HOSTS))
            )
            for name, count in rendezvous.replicas.items()
        }
        return {"HEADRACE_RENDEZVOUS_PORT": str(rendezvous.port), **hosts}

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """Every pod of every role."""
        return all_succeeded(roles)
