"""Settings of the job controller: every one with its unit, default and why.

Read from the command line first, then the environment (`HEADRACE_JOBCONTROLLER_…`)."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from jobcontroller.core import notices


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `HOST:PORT`; ValueError with what would be right."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"{text!r} must be HOST:PORT, as 127.0.0.1:7000")
    return host.strip("[]"), int(port)


class Settings(BaseSettings):
    """Validated at start and printed then; nothing in here is secret."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_JOBCONTROLLER_")

    kubeconfig: Path | None = Field(default=None, description="default: $KUBECONFIG, ~/.kube/config, in-cluster")
    metadata: str | None = Field(default=None, description="HOST:PORT of the metadata service (checkpoints)")
    trust: Path | None = Field(
        default=None,
        description="folder with ca.crt, tls.crt and tls.key of this controller; none = nothing is checked",
    )
    metrics: str | None = Field(default=None, description="HOST:PORT of /metrics, /healthz and /readyz; default none")
    leader_elect: bool = Field(default=True, description="two replicas may run; one acts")
    lease_namespace: str = Field(default="kube-system", description="where the Lease is")
    lease_name: str = Field(default="headrace-jobcontroller")
    workers: int = Field(default=16, ge=1, le=256, description="jobs decided at the same time, one worker a job")
    creations: int = Field(default=50, ge=1, le=500, description="creations in flight over all jobs; KubeDL's number")
    resync_seconds: float = Field(
        default=30.0, gt=0, description="each unfinished job is looked at again this often, should a watch miss it"
    )
    checkpoint_seconds: float = Field(
        default=10.0, gt=0, description="how old a running job's checkpoint list may get in its status"
    )
    settle_seconds: float = Field(
        default=3.0, ge=0, description="how long after a program's error its cause, a killed peer, is looked for"
    )
    force_after_seconds: float = Field(
        default=30.0,
        ge=0,
        description="how long after its grace a pod's node may confirm its end before the pod is deleted by force",
    )
    notice_taints: tuple[str, ...] = Field(
        default=notices.TAINTS, description="taints of nodes that will be taken away; members there leave at once"
    )
    request_seconds: float = Field(default=10.0, gt=0, description="deadline of one request to the metadata service")

    @field_validator("metadata", "metrics")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_address(value)
        return value
