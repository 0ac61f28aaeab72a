"""What a container's monitor is told: command, environment, mounts, user.

Owns the translation of a container into the launcher's spec. Does not start it
(shell/processes.py). Raises ConfigError naming the field of the pod that is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.node.core.environment import KeyedObjects, PodFacts, build, expand
from headrace.node.core.pod_spec import Container, Pod, VolumeMount, field_of, host_name
from headrace.node.errors import ConfigError
from headrace.node.shell.records import ContainerFolder, PodFolder
from headrace.node.shell.volumes import VolumePath

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: A HOME of the container's own: the machine's user's has credentials in it.
HOME = "/container-home"


@dataclass(frozen=True, slots=True)
class PodPlace:
    """A pod on this node: its files, addresses and devices."""

    folder: PodFolder
    facts: PodFacts
    gpus: Mapping[str, tuple[int, ...]]
    bin_dir: Path


def build_spec(
    pod: Pod,
    container: Container,
    place: PodPlace,
    *,
    objects: KeyedObjects,
    volumes: Mapping[str, VolumePath],
    attempt: int,
) -> dict[str, Any]:
    """Return the launcher's spec of one start, without the record files. Makes the container's folder."""
    field = field_of(pod.spec, container.name)
    if not container.command:
        raise ConfigError(
            f"{field}.command must be set: process nodes run commands of this machine, "
            f"image {container.image!r} is not pulled and has no entrypoint here"
        )
    env = build(pod, container, place.facts, objects, _base_environment(pod, container, place))
    folder = place.folder.container(container.name)
    folder.create()
    user = _user(pod, container, field)
    if user.get("uid") is not None:
        os.chown(folder.home, user["uid"], user["gid"])
    return {
        "argv": [expand(word, env) for word in (*container.command, *container.args)],
        "env": env,
        "cwd": container.working_dir or "/",
        "hostname": host_name(pod),
        "binds": [
            *_own_binds(place.folder, folder, container, attempt),
            *_volume_binds(container, field, volumes, env),
        ],
        **user,
    }


def exec_spec(pod: Pod, container: Container, env: Mapping[str, str], command: list[str]) -> dict[str, Any]:
    """Return the launcher's spec of a command inside a running container."""
    field = field_of(pod.spec, container.name)
    return {"argv": command, "env": dict(env), "cwd": container.working_dir or "/", **_user(pod, container, field)}


def _base_environment(pod: Pod, container: Container, place: PodPlace) -> dict[str, str]:
    env = {
        "PATH": f"{place.bin_dir}:{SYSTEM_PATH}",
        "LANG": "C.UTF-8",
        "HOME": HOME,
        "HOSTNAME": host_name(pod),
    }
    indices = ",".join(str(index) for index in place.gpus.get(container.name, ()))
    if indices:
        env |= {"NVIDIA_VISIBLE_DEVICES": indices, "CUDA_VISIBLE_DEVICES": indices}
    return env


def _user(pod: Pod, container: Container, field: str) -> dict[str, Any]:
    own, shared = container.security_context, pod.spec.security_context
    uid, gid, groups = None, None, []
    for context in (shared, own):
        if context is not None:
            uid = context.run_as_user if context.run_as_user is not None else uid
            gid = context.run_as_group if context.run_as_group is not None else gid
    if shared is not None:
        groups = [*shared.supplemental_groups, *([shared.fs_group] if shared.fs_group is not None else [])]
    if uid is None and gid is None and not groups:
        return {}
    if os.geteuid() != 0:
        if uid in (None, os.geteuid()):
            return {}
        raise ConfigError(
            f"{field}.securityContext.runAsUser {uid}: the node agent is not root and cannot change users"
        )
    return {"uid": uid if uid is not None else 0, "gid": gid if gid is not None else 0, "groups": groups}


def _own_binds(
    pod_folder: PodFolder, folder: ContainerFolder, container: Container, attempt: int
) -> list[dict[str, Any]]:
    message = folder.file(attempt, "message")
    message.touch()
    message.chmod(0o666)
    return [
        {"source": str(folder.home), "target": HOME},
        {"source": str(pod_folder.hosts), "target": "/etc/hosts"},
        {"source": str(pod_folder.hostname), "target": "/etc/hostname"},
        {"source": str(message), "target": container.termination_message_path},
    ]


def _volume_binds(
    container: Container, field: str, volumes: Mapping[str, VolumePath], env: Mapping[str, str]
) -> list[dict[str, Any]]:
    binds = []
    for index, mount in enumerate(container.volume_mounts):
        where = f"{field}.volumeMounts[{index}]"
        volume = volumes.get(mount.name)
        if volume is None:
            # The API server checks names; what is left is the token volume, which is not provided.
            continue
        read_only = mount.read_only or volume.read_only
        source = _sub_path(volume, mount, where, env)
        binds.append({"source": str(source), "target": mount.mount_path, "read_only": read_only})
    return binds


def _sub_path(volume: VolumePath, mount: VolumeMount, where: str, env: Mapping[str, str]) -> Path:
    sub_path = expand(mount.sub_path_expr, env) if mount.sub_path_expr else mount.sub_path
    if not sub_path:
        return volume.path
    base = volume.path.resolve()
    path = (base / sub_path).resolve()
    if not path.is_relative_to(base):
        raise ConfigError(f"{where}.subPath {sub_path!r} leads out of the volume")
    if not path.exists():
        if volume.read_only or mount.read_only or volume.is_dataset:
            raise ConfigError(f"{where}.subPath {sub_path!r} does not exist in the volume")
        path.mkdir(parents=True)
        path.chmod(0o777)
    return path
