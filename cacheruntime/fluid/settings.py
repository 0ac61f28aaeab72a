"""Settings of the entry points: what Fluid does not tell (HEADRACE_FLUID_*, and POD_NAME, POD_IP, NODE_NAME)."""

import socket
from dataclasses import dataclass
from pathlib import Path

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from cacheruntime.fluid.core.config import DatasetName, RuntimeConfig


class FluidSettings(BaseSettings):
    """Where things are in a pod of Fluid's; the defaults are those of manifests/fluid."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_FLUID_")

    metadata: str = Field(default="", description="HOST:PORT of the metadata service; empty = the master's pod")
    metadata_port: int = Field(default=7100, ge=0, le=65_535)
    metadata_metrics_port: int = Field(default=7101, ge=0, le=65_535)
    byte_port: int = Field(default=7201, ge=0, le=65_535)
    control_port: int = Field(default=7202, ge=0, le=65_535)
    worker_metrics_port: int = Field(default=7203, ge=0, le=65_535)
    state: Path = Field(default=Path("/var/lib/headrace"), description="folder of the master's database")
    run: Path = Field(default=Path("/run/headrace"), description="folder of the socket and of the mount")
    secrets: Path = Field(
        default=Path("/etc/fluid/secrets"), description="where Fluid mounts Secrets, as <secret>/<key>"
    )
    client_memory: str = Field(default="256Mi", description="what a client without a tiered store has for its readers")
    wait_seconds: float = Field(
        default=15.0, gt=0, description="how long mount-ufs waits for the listing; Fluid waits 20 s or more"
    )
    patience_seconds: float = Field(default=60.0, gt=0, description="how long a load waits for who does not answer")
    poll_seconds: float = Field(default=0.5, gt=0, description="interval of asking for progress")
    call_seconds: float = Field(default=5.0, gt=0, description="deadline of one call")
    pod_name: str = Field(
        default_factory=socket.gethostname, validation_alias=AliasChoices("HEADRACE_FLUID_POD_NAME", "POD_NAME")
    )
    pod_ip: str = Field(default="", validation_alias=AliasChoices("HEADRACE_FLUID_POD_IP", "POD_IP"))
    node_name: str = Field(
        default_factory=socket.gethostname, validation_alias=AliasChoices("HEADRACE_FLUID_NODE_NAME", "NODE_NAME")
    )

    @property
    def address(self) -> str:
        """This pod's address, for others to call; bracketed when it is of IPv6."""
        found = self.pod_ip or socket.gethostbyname(socket.gethostname())
        return f"[{found}]" if ":" in found else found


@dataclass(frozen=True, slots=True)
class Runtime:
    """One runtime of Fluid's, and where its metadata service is."""

    config: RuntimeConfig
    who: DatasetName
    address: str
    settings: FluidSettings
