"""Settings of the cache controller: flags with HEADRACE_CONTROLLER_* as their environment spelling."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ControllerSettings(BaseSettings):
    """Everything the controller can be told; validated at start."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_CONTROLLER_")

    kubeconfig: Path | None = Field(default=None, description="kubeconfig file; default: kubectl's search order")
    metadata: str = Field(description="host:port of the metadata service")
    credentials_dir: Path | None = Field(
        default=None, description="folder where Secrets named by Datasets are put as files, mode 0600; on one machine"
    )
    credentials_secrets: str | None = Field(
        default=None,
        description="NAMESPACE/NAME,…: Secrets that get copies of what Datasets name, for pods that mount them",
    )
    workers: str | None = Field(
        default=None,
        description="NAMESPACE/NAME of the workers' DaemonSet, of which those of CacheRuntimes with nodes of their own "
        "are copies; none = the workers are no pods",
    )
    trust: Path | None = Field(
        default=None,
        description="folder with ca.crt, tls.crt and tls.key of this controller; none = nothing is checked",
    )
    metrics: str | None = Field(
        default=None, description="host:port of /metrics, /healthz and /readyz; none = not served"
    )
    leader_elect: bool = Field(default=True, description="act only while holding the Lease")
    lease_namespace: str = Field(default="kube-system", description="namespace of that Lease")
    poll_seconds: float = Field(
        default=1.0, gt=0, description="how often metadata is asked for residency; NodeCache may lag by this much"
    )
    call_seconds: float = Field(default=10.0, gt=0, description="deadline of one call to metadata or a worker")

    @property
    def mirrors(self) -> list[tuple[str, str]]:
        """(namespace, name) of each Secret of `credentials_secrets`."""
        return [_namespaced(each) for each in (self.credentials_secrets or "").split(",") if each]

    @property
    def installed_workers(self) -> tuple[str, str] | None:
        """(namespace, name) of `workers`."""
        return _namespaced(self.workers) if self.workers else None

    @field_validator("credentials_secrets", "workers")
    @classmethod
    def _are_names(cls, value: str | None) -> str | None:
        for each in (value or "").split(","):
            if each:
                _namespaced(each)
        return value

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if self.credentials_dir is None and not self.mirrors:
            raise ValueError("give --credentials-dir or --credentials-secrets: Datasets name credentials")
        return self


def _namespaced(text: str) -> tuple[str, str]:
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise ValueError(f"{text!r} is not NAMESPACE/NAME; write it like headrace-node/headrace-worker")
    return namespace, name
