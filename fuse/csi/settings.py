"""Settings of the plugin and of the launcher; command line first, then environment (HEADRACE_CSI_*), then these."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from api import names

KUBELET_FOLDER = Path("/var/lib/kubelet")


class Settings(BaseSettings):
    """Everything `python -m fuse.csi` can be told."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_CSI_", cli_kebab_case=True, cli_implicit_flags=True, cli_prog_name="python -m fuse.csi"
    )

    role: Literal["plugin", "launcher"] = Field(
        default="plugin",
        description="plugin = CSI and registration; launcher = starts FUSE daemons for a plugin that may be replaced",
    )
    node: str = Field(min_length=1, max_length=253, description="name of the Kubernetes node this process is on")
    metadata: str = Field(pattern=r"^.+:\d+$", description="HOST:PORT of the metadata service")
    worker_socket: Path = Field(description="unix socket of this node's cache worker")
    trust: Path | None = Field(
        default=None,
        description="folder with ca.crt, tls.crt and tls.key of this node; without it nothing is encrypted or checked",
    )
    state: Path = Field(
        default=Path("/run/headrace/csi"),
        description="folder for mounts and records; on a tmpfs, and shared with the node's mount namespace",
    )
    kubelet: Path = Field(default=KUBELET_FOLDER, description="kubelet's folder; targets are below it")
    socket: Path = Field(
        default=KUBELET_FOLDER / "plugins" / names.CSI_DRIVER / "csi.sock", description="unix socket to serve CSI at"
    )
    registration: Path | None = Field(
        default=None, description="kubelet's plugins_registry folder; without it nothing is registered"
    )
    launcher_socket: Path | None = Field(
        default=None, description="unix socket of the launcher; a plugin without it starts daemons itself"
    )
    controller: bool = Field(default=False, description="serve CSI's Controller too, for an external-provisioner")
    backend: Literal["auto", "raw", "pyfuse3"] = Field(default="auto", description="--backend of the FUSE daemons")
    heal_seconds: float = Field(
        default=5.0, gt=0, le=3600, description="how often dead mounts are looked for, besides kubelet's calls"
    )
    fence_seconds: float = Field(
        default=15.0,
        gt=0,
        le=3600,
        description="how often is looked whether pods the job controller gave up have ended here",
    )

    metrics: str | None = Field(
        default=None, pattern=r"^.*:\d+$", description="HOST:PORT to serve /metrics, /healthz and /readyz at"
    )

    @model_validator(mode="after")
    def _absolute(self) -> Self:
        for name in ("worker_socket", "trust", "state", "kubelet", "socket", "registration", "launcher_socket"):
            path = getattr(self, name)
            if path is not None:
                setattr(self, name, path.absolute())
        if self.role == "launcher" and self.launcher_socket is None:
            raise ValueError("role launcher needs --launcher-socket, the socket it serves at")
        return self

    def daemon_arguments(self) -> list[str]:
        """Return the arguments of `python -m fuse`, all but --mount."""
        pairs = {
            "--node": self.node,
            "--metadata": self.metadata,
            "--worker-socket": str(self.worker_socket),
            "--backend": self.backend,
            **({"--trust": str(self.trust)} if self.trust is not None else {}),
        }
        return [*(word for pair in pairs.items() for word in pair), "--group-rights"]
