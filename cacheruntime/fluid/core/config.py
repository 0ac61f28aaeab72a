"""The runtime config, JSON that Fluid mounts into every pod of a runtime, and the environment beside it, as values.

Pure. Fields we do not know are passed over: Fluid adds some with every version. Invariant: a value that cannot be used
is named with its place in one sentence (FluidError), and is not shown where it may be a secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, ValidationError, field_validator

from api.model import Model
from cacheruntime.fluid.errors import FluidError

CONFIG_PATH = "FLUID_RUNTIME_CONFIG_PATH"
DATASET_NAME = "FLUID_DATASET_NAME"
DATASET_NAMESPACE = "FLUID_DATASET_NAMESPACE"
MOUNT_PATH = "FLUID_RUNTIME_MOUNT_PATH"
COMPONENT = "FLUID_RUNTIME_COMPONENT_TYPE"
LOAD_METADATA = "FLUID_DATALOAD_METADATA"
LOAD_PATHS = "FLUID_DATALOAD_DATA_PATH"
LOAD_REPLICAS = "FLUID_DATALOAD_PATH_REPLICAS"


class Lenient(Model):
    """Go leaves out what is empty, and writes null for some of it: both are the default here."""

    @field_validator("*", mode="before")
    @classmethod
    def _without_null(cls, value: object, info: object) -> object:
        name = getattr(info, "field_name", "")
        field = cls.model_fields[name]
        return field.get_default(call_default_factory=True) if value is None and not field.is_required() else value


class MountConfig(Lenient):
    """One mount of the Dataset; `encrypt_options` maps an option to the file that holds its value."""

    mount_point: str
    name: str = ""
    path: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    encrypt_options: dict[str, str] = Field(default_factory=dict)
    read_only: bool = False
    shared: bool = False

    @property
    def ufs_path(self) -> str:
        """Where Fluid takes it to be in the dataset, and what it must be called in answers, letter by letter."""
        return self.path if self.path.startswith("/") else f"/{self.name}"


class TierLevel(Lenient):
    """One level of a tiered store: folders of the pod, each with its quota."""

    mount_paths: list[str] = Field(default_factory=list)
    medium_type: str = ""
    quotas: list[str] = Field(default_factory=list)
    high: str = ""
    low: str = ""


class Service(Lenient):
    """The headless service of a component; no name = it has none."""

    name: str = ""


class Component(Lenient):
    """Master, worker or client."""

    enabled: bool = False
    name: str = ""
    options: dict[str, str] = Field(default_factory=dict)
    replicas: int = 0
    service: Service = Field(default_factory=Service)
    tiered_store_levels: list[TierLevel] = Field(default_factory=list)


class RuntimeConfig(Lenient):
    """All of it."""

    mounts: list[MountConfig] = Field(default_factory=list)
    access_modes: list[str] = Field(default_factory=list)
    target_path: str = ""
    master: Component = Field(default_factory=Component)
    worker: Component = Field(default_factory=Component)
    client: Component = Field(default_factory=Component)


@dataclass(frozen=True, slots=True)
class DatasetName:
    """Which Dataset of Fluid's it is; the runtime has the same name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class LoadTask:
    """What a DataLoad asks for: (path, copies), and whether to list the under store anew first."""

    targets: tuple[tuple[str, int], ...]
    load_metadata: bool


def parse_config(text: str) -> RuntimeConfig:
    """Return the runtime config; FluidError."""
    try:
        return RuntimeConfig.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the text"
        # The value is left out: options of a mount may hold what should have been in encryptOptions.
        raise FluidError(f"Fluid's runtime config cannot be used: {place}: {first['msg']}") from None


def dataset_name(config: RuntimeConfig, environment: Mapping[str, str]) -> DatasetName:
    """Return the Dataset's name; the pods of a DataLoad are told it by the target path only. FluidError."""
    namespace, name = environment.get(DATASET_NAMESPACE, ""), environment.get(DATASET_NAME, "")
    parts = config.target_path.strip("/").split("/")
    if not (namespace and name) and len(parts) >= 3:
        namespace, name = parts[-3], parts[-2]
    if not namespace or not name:
        raise FluidError(
            f"neither {DATASET_NAMESPACE} and {DATASET_NAME} nor targetPath ({config.target_path!r}) say which "
            "Dataset this is; it is to run in a pod that Fluid made"
        )
    return DatasetName(namespace, name)


def load_task(environment: Mapping[str, str]) -> LoadTask:
    """Return what the environment of a DataLoad's pod asks for; FluidError."""
    paths = environment.get(LOAD_PATHS, "").split(":")
    if paths == [""]:
        paths = ["/"]
    replicas = environment.get(LOAD_REPLICAS, "").split(":")
    if replicas == [""]:
        replicas = ["1"] * len(paths)
    if len(paths) != len(replicas):
        raise FluidError(
            f"{LOAD_PATHS} has {len(paths)} paths and {LOAD_REPLICAS} {len(replicas)} numbers; they go together one by "
            "one, and a path with a colon in its name cannot be loaded by Fluid"
        )
    return LoadTask(
        tuple((_path(path), _copies(number)) for path, number in zip(paths, replicas, strict=True)),
        _flag(environment.get(LOAD_METADATA, "")),
    )


def _path(text: str) -> str:
    parts = text.split("/")
    if not text or any(part in (".", "..") for part in parts):
        raise FluidError(f"{LOAD_PATHS} has the path {text!r}; write it from the dataset's root, as /train")
    return "/" + "/".join(filter(None, parts))


def _copies(text: str) -> int:
    # Fluid's default of a target is 1, but an explicit 0 comes through.
    if text.isascii() and text.isdigit() and int(text) <= 16:
        return max(1, int(text))
    raise FluidError(f"{LOAD_REPLICAS} has {text!r}; the copies of a target are a number from 1 to 16")


def _flag(text: str) -> bool:
    if text.lower() in ("", "true", "false"):
        return text.lower() == "true"
    raise FluidError(f"{LOAD_METADATA} is {text!r}; it must be true or false")
