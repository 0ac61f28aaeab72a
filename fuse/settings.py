"""Settings of the daemon; command line first, then environment (HEADRACE_FUSE_*), then the defaults here."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything one mount can be told."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_FUSE_", cli_kebab_case=True, cli_implicit_flags=True, cli_prog_name="python -m fuse"
    )

    node: str = Field(min_length=1, max_length=253, description="name of the Kubernetes node this mount is on")
    metadata: str = Field(pattern=r"^.+:\d+$", description="HOST:PORT of the metadata service")
    worker_socket: Path = Field(description="unix socket of this node's cache worker")
    mount: Path = Field(description="directory to mount at; made if it is not there")
    trust: Path | None = Field(
        default=None,
        description="folder with ca.crt, tls.crt and tls.key of this node; without it nothing is encrypted or checked",
    )
    metrics: str | None = Field(default=None, pattern=r"^.*:\d+$", description="HOST:PORT to serve /metrics at")
    allow_other: bool = Field(default=os.geteuid() == 0, description="let other users in; the default when run as root")
    group_rights: bool = Field(
        default=False, description="the group of a file has what its owner has; for mounts of users who share a group"
    )
    backend: Literal["auto", "raw", "pyfuse3"] = Field(
        default="auto", description="auto = raw where the kernel and our rights allow it, else pyfuse3"
    )
    keeper: bool = Field(
        default=True, description="with the raw backend: outlive the daemon's death, so that open files go on"
    )
    open: bool = Field(
        default=True,
        description="be told of opens; without it the mount is read-only and small files open fastest (raw backend)",
    )
    standby: bool = Field(
        default=True, description="keep a second daemon ready (about 70 MB); without it a take-over takes a second more"
    )
    watchdog_seconds: float = Field(
        default=5.0, ge=1, description="a daemon that says nothing for so long is killed and followed by another"
    )
    request_timeout_seconds: int = Field(
        default=7200,
        ge=0,
        le=65_535,
        description="the kernel ends a mount whose processes leave a request unanswered for so long (raw backend, "
        "Linux 6.15); longer than a commit may take, 0 = never",
    )
    worker_patience_seconds: float = Field(
        default=30.0, gt=0, description="how long a request waits for a dead worker's successor before EIO"
    )
    metadata_patience_seconds: float = Field(
        default=15.0, gt=0, description="how long a call waits for a restarting metadata service before EIO"
    )

    @property
    def metrics_address(self) -> tuple[str, int]:
        """Host ("" = loopback) and port of --metrics."""
        host, _, port = (self.metrics or ":0").rpartition(":")
        return host or "127.0.0.1", int(port)

    @model_validator(mode="after")
    def _checked(self) -> Self:
        if not self.open and self.backend == "pyfuse3":
            raise ValueError("--no-open needs the raw backend, --backend is pyfuse3")
        self.mount = self.mount.absolute()
        self.worker_socket = self.worker_socket.absolute()
        return self
