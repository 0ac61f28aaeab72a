"""Settings of the cache controller: flags with HEADRACE_CONTROLLER_* as their environment spelling."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class ControllerSettings(BaseSettings):
    """Everything the controller can be told; validated at start."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_CONTROLLER_")

    kubeconfig: Path | None = Field(default=None, description="kubeconfig file; default: kubectl's search order")
    metadata: str = Field(description="host:port of the metadata service")
    credentials_dir: Path = Field(description="folder where Secrets named by Datasets are put as files, mode 0600")
    trust: Path | None = Field(
        default=None,
        description="folder with ca.crt, tls.crt and tls.key of this controller; none = nothing is checked",
    )
    metrics: str | None = Field(default=None, description="host:port to serve /metrics on; none = not served")
    leader_elect: bool = Field(default=True, description="act only while holding the Lease")
    lease_namespace: str = Field(default="kube-system", description="namespace of that Lease")
    poll_seconds: float = Field(
        default=1.0, gt=0, description="how often metadata is asked for residency; NodeCache may lag by this much"
    )
    call_seconds: float = Field(default=10.0, gt=0, description="deadline of one call to metadata or a worker")
