"""Settings of the node agent: its flags, checked once at start.

Owns meaning, default and validation of every flag. Nothing else reads flags or the
environment."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from api import quantities
from headrace.node.core.addresses import MAX_NETWORK_INDEX
from headrace.node.errors import SettingsError

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")


class NodeSettings(BaseSettings):
    """What one process node is. Every field is a flag of the same name."""

    model_config = SettingsConfigDict(frozen=True, env_prefix="HEADRACE_NODE_")

    name: str = Field(description="name of the Node")
    kubeconfig: Path | None = Field(default=None, description="kubeconfig file; default: as kubectl finds it")
    dir: Path = Field(description="folder for pods, logs and records; must survive the agent")
    mount: Path = Field(description="mount point of this node's FUSE client: <mount>/<namespace>/<dataset>")
    metadata: str | None = Field(
        default=None,
        pattern=r"^.+:\d+$",
        description="HOST:PORT of the metadata service, to be told when a pod that was given up has ended here",
    )
    trust: Path | None = Field(
        default=None, description="folder with ca.crt, tls.crt and tls.key of this node, for the metadata service"
    )
    cpu: str = Field(default="4", description="CPUs offered, as a quantity")
    memory: str = Field(default="8Gi", description="memory offered, as a quantity")
    gpus: int = Field(default=0, ge=0, le=1024, description="GPUs offered; only indices are handed out")
    network_index: int = Field(
        default=0, ge=0, le=MAX_NETWORK_INDEX, description="pods get addresses of 127.(16+this).0.0/16"
    )
    labels: dict[str, str] = Field(default_factory=dict, description="more labels of the Node: k=v,k=v")
    tls_cert: Path | None = Field(default=None, description="certificate of the log endpoint")
    tls_key: Path | None = Field(default=None, description="its key")
    client_ca: Path | None = Field(
        default=None, description="CA that signed the API server's kubelet client certificate"
    )
    bin_dir: Path = Field(
        default=Path(sys.executable).parent, description="first entry of the containers' PATH, so that `python` is ours"
    )
    lease_renew_seconds: float = Field(default=10.0, gt=0, description="as kubelet; a quarter of the lease")
    lease_duration_seconds: int = Field(default=40, gt=0, description="as kubelet")
    status_seconds: float = Field(default=60.0, gt=0, description="the Node's status is written at least this often")
    taint_patience_seconds: float = Field(
        default=3.0, ge=0, description="after this the not-ready taint is lifted without a controller-manager"
    )
    mount_wait_seconds: float = Field(default=60.0, gt=0, description="how long a pod's start waits for its dataset")
    shutdown_grace_seconds: float = Field(
        default=20.0, ge=0, description="most a container gets between SIGTERM and SIGKILL when the agent is stopped"
    )

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _NAME.match(value):
            raise ValueError(f"{value!r} is not a node name: use lower-case letters, digits, - and .")
        return value

    @field_validator("cpu", "memory")
    @classmethod
    def _check_quantity(cls, value: str) -> str:
        if quantities.parse(value) <= 0:
            raise ValueError(f"{value!r} must be more than 0")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _split_labels(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part]
        if any(not key or not equals for key, equals, _ in pairs):
            raise ValueError(f"{value!r} must look like key=value,key=value")
        return {key: text for key, _, text in pairs}

    @model_validator(mode="after")
    def _check_tls(self) -> NodeSettings:
        given = [path for path in (self.tls_cert, self.tls_key, self.client_ca) if path is not None]
        if len(given) not in (0, 3):
            raise ValueError("--tls-cert, --tls-key and --client-ca belong together: give all three or none")
        for path in given:
            if not path.is_file():
                raise ValueError(f"{path} is not a file")
        return self


def parse_arguments(arguments: Sequence[str]) -> NodeSettings:
    """Return the settings of a command line; SettingsError with one sentence, SystemExit for --help."""
    parser = argparse.ArgumentParser(prog="python -m headrace.node", description="Run pods as local processes.")
    for name, field in NodeSettings.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            default=argparse.SUPPRESS,
            required=field.is_required() and f"HEADRACE_NODE_{name.upper()}" not in os.environ,
            help=field.description,
        )
    given = vars(parser.parse_args(arguments))
    try:
        return NodeSettings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-") if first["loc"] else "flags"
        raise SettingsError(f"{flag}: {first['msg'].removeprefix('Value error, ')}") from error
