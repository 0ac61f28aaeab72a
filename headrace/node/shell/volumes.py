"""A pod's volumes as directories on this machine.

Owns making them: emptyDir, hostPath, configMap, secret, projected, downwardAPI, and
datasets (a PVC, or an inline CSI volume) as directories in the node's FUSE mount. Does not
mount anything: container_root.py binds the directories. Raises VolumeError saying what is
missing; making a volume twice gives the same. Service account tokens are left out: inside
a process node the API server is reached with the machine's own means."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from api import names
from headrace.node.core import environment
from headrace.node.core.environment import PodFacts
from headrace.node.core.pod_spec import (
    ConfigMapSource,
    DownwardSource,
    HostPathSource,
    KeyToPath,
    Pod,
    ProjectedSource,
    SecretSource,
    Volume,
)
from headrace.node.errors import ConfigError, VolumeError
from headrace.node.shell import objects
from headrace.node.shell.dataset_mounts import DatasetMounts
from headrace.node.shell.records import PodFolder
from kube.client import KubeClient
from kube.errors import NotFound
from kube.resources import PERSISTENT_VOLUME_CLAIMS, PERSISTENT_VOLUMES

#: What the API server adds to every pod; its token would be of no use here.
TOKEN_VOLUME_PREFIX = "kube-api-access-"


@dataclass(frozen=True, slots=True)
class VolumePath:
    """Where a volume is on this machine; `is_dataset` ones are never written to by the agent."""

    path: Path
    read_only: bool = False
    is_dataset: bool = False


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    content: bytes
    mode: int


class VolumeSetup:
    """Makes the volumes of one pod."""

    def __init__(
        self,
        client: KubeClient,
        mounts: DatasetMounts,
        folder: PodFolder,
        pod: Pod,
        *,
        facts: PodFacts,
        mount_wait_seconds: float,
    ) -> None:
        self._client = client
        self._mounts = mounts
        self._folder = folder
        self._pod = pod
        self._facts = facts
        self._wait_seconds = mount_wait_seconds

    async def prepare(self) -> dict[str, VolumePath]:
        """Make every volume and return where each is. Raises VolumeError for the first that cannot be."""
        return {volume.name: await self._prepare(volume) for volume in self._wanted()}

    async def refresh(self, pod: Pod) -> None:
        """Write the downward volumes again from a newer object of the same pod. Raises VolumeError.

        Projected volumes keep what they had when the pod started."""
        self._pod = pod
        for volume in self._wanted():
            if volume.downward_api is not None:
                await self._prepare(volume)

    def _wanted(self) -> list[Volume]:
        mounted = {
            mount.name
            for container in (*self._pod.spec.containers, *self._pod.spec.init_containers)
            for mount in container.volume_mounts
        }
        return [
            volume
            for volume in self._pod.spec.volumes
            if volume.name in mounted and not volume.name.startswith(TOKEN_VOLUME_PREFIX)
        ]

    async def _prepare(self, volume: Volume) -> VolumePath:
        try:
            if volume.empty_dir is not None:
                is_memory = volume.empty_dir.medium == "Memory"
                path = self._folder.memory / volume.name if is_memory else self._folder.volume(volume.name)
                await asyncio.to_thread(_make_empty_dir, path)
                return self._owned(VolumePath(path))
            if volume.host_path is not None:
                return VolumePath(await asyncio.to_thread(_host_path, volume.name, volume.host_path))
            if volume.persistent_volume_claim is not None:
                return await self._claim(volume)
            if volume.csi is not None:
                source = volume.csi
                attributes = source.volume_attributes
                self._check_inline(volume.name, attributes)
                return await self._csi(
                    volume.name, source.driver, attributes, self._pod.metadata.namespace, source.read_only
                )
            files = await self._files(volume)
        except OSError as error:
            raise VolumeError(volume.name, f"{error.filename or ''}: {error.strerror}") from error
        path = self._folder.volume(volume.name)
        await asyncio.to_thread(_write_files, path, files)
        return self._owned(VolumePath(path, read_only=True))

    def _owned(self, volume: VolumePath) -> VolumePath:
        context = self._pod.spec.security_context
        if context is not None and context.fs_group is not None and os.geteuid() == 0:
            for parent, _, file_names in os.walk(volume.path):
                for name in (".", *file_names):
                    path = Path(parent, name)
                    os.chown(path, -1, context.fs_group, follow_symlinks=False)
                    if name == ".":
                        path.chmod(path.stat().st_mode | stat.S_ISGID | stat.S_IRWXG)
        return volume

    # ---- datasets ----------------------------------------------------------------------------

    async def _claim(self, volume: Volume) -> VolumePath:
        source = volume.persistent_volume_claim
        assert source is not None
        namespace = self._pod.metadata.namespace
        try:
            claim = await self._client.get(PERSISTENT_VOLUME_CLAIMS, source.claim_name, namespace)
        except NotFound:
            raise VolumeError(volume.name, f'persistentvolumeclaim "{source.claim_name}" not found') from None
        dataset = (claim["metadata"].get("labels") or {}).get(names.DATASET_LABEL)
        if dataset:
            return await self._dataset(volume.name, namespace, dataset, source.read_only)
        volume_name = claim["spec"].get("volumeName") or ""
        if not volume_name or (claim.get("status") or {}).get("phase") != "Bound":
            raise VolumeError(volume.name, f'persistentvolumeclaim "{source.claim_name}" is not bound')
        try:
            spec = (await self._client.get(PERSISTENT_VOLUMES, volume_name))["spec"]
        except NotFound:
            raise VolumeError(volume.name, f'persistentvolume "{volume_name}" not found') from None
        read_only = source.read_only or set(spec.get("accessModes") or ()) == {"ReadOnlyMany"}
        if spec.get("hostPath"):
            path = HostPathSource(spec["hostPath"]["path"], spec["hostPath"].get("type") or "")
            return VolumePath(await asyncio.to_thread(_host_path, volume.name, path), read_only)
        csi = spec.get("csi") or {}
        return await self._csi(
            volume.name, csi.get("driver") or "", csi.get("volumeAttributes") or {}, namespace, read_only
        )

    def _check_inline(self, name: str, attributes: Mapping[str, str]) -> None:
        """As the CSI plugin: who may make pods may not read other namespaces' datasets by it."""
        own, asked = self._pod.metadata.namespace, attributes.get(names.CSI_ATTRIBUTE_NAMESPACE)
        if asked and asked != own:
            raise VolumeError(
                name,
                f"a pod of namespace {own} may not have a dataset of {asked} as an inline volume; use a "
                "PersistentVolume made by the cluster's administrator",
            )

    async def _csi(
        self, name: str, driver: str, attributes: Mapping[str, str], namespace: str, read_only: bool
    ) -> VolumePath:
        if driver != names.CSI_DRIVER:
            raise VolumeError(name, f"driver {driver!r} is not on process nodes; only {names.CSI_DRIVER} is")
        dataset = attributes.get(names.CSI_ATTRIBUTE_DATASET)
        if not dataset:
            raise VolumeError(name, f"volumeAttributes.{names.CSI_ATTRIBUTE_DATASET} must name a Dataset")
        if attributes.get(names.CSI_ATTRIBUTE_SUB_PATH):
            raise VolumeError(
                name, f"volumeAttributes.{names.CSI_ATTRIBUTE_SUB_PATH} is not on process nodes; leave it out"
            )
        namespace = attributes.get(names.CSI_ATTRIBUTE_NAMESPACE) or namespace
        return await self._dataset(name, namespace, dataset, read_only)

    async def _dataset(self, name: str, namespace: str, dataset: str, read_only: bool) -> VolumePath:
        problem = await self._mounts.wait(namespace, dataset, self._wait_seconds)
        if problem:
            raise VolumeError(name, problem)
        return VolumePath(self._mounts.path(namespace, dataset), read_only, is_dataset=True)

    # ---- files from objects ------------------------------------------------------------------

    async def _files(self, volume: Volume) -> list[_File]:
        if volume.config_map is not None:
            return await self._config_map(volume.name, volume.config_map, volume.config_map.default_mode)
        if volume.secret is not None:
            return await self._secret(volume.name, volume.secret, volume.secret.default_mode)
        if volume.downward_api is not None:
            return self._downward(volume.name, volume.downward_api, volume.downward_api.default_mode)
        if volume.projected is not None:
            return await self._projected(volume.name, volume.projected)
        raise VolumeError(volume.name, "this kind of volume is not on process nodes")

    async def _projected(self, name: str, source: ProjectedSource) -> list[_File]:
        files: list[_File] = []
        for part in source.sources:
            if part.config_map is not None:
                files += await self._config_map(name, part.config_map, source.default_mode)
            if part.secret is not None:
                files += await self._secret(name, part.secret, source.default_mode)
            if part.downward_api is not None:
                files += self._downward(name, part.downward_api, source.default_mode)
        return files

    async def _config_map(self, name: str, source: ConfigMapSource, mode: int) -> list[_File]:
        data = await objects.read_config_map(self._client, self._pod.metadata.namespace, source.name)
        return _chosen(name, "configmap", source.name, data, items=source.items, mode=mode, optional=source.optional)

    async def _secret(self, name: str, source: SecretSource, mode: int) -> list[_File]:
        secret = source.secret_name or source.name
        data = await objects.read_secret(self._client, self._pod.metadata.namespace, secret)
        return _chosen(name, "secret", secret, data, items=source.items, mode=mode, optional=source.optional)

    def _downward(self, name: str, source: DownwardSource, mode: int) -> list[_File]:
        files = []
        for item in source.items:
            try:
                if item.field_ref is not None:
                    text = environment.pod_field(self._pod, self._facts, item.field_ref.field_path)
                elif item.resource_field_ref is not None:
                    container = self._pod.spec.containers[0]
                    text = environment.resource_field(self._pod, container, self._facts, item.resource_field_ref)
                else:
                    continue
            except ConfigError as error:
                raise VolumeError(name, str(error)) from error
            files.append(_File(item.path, text.encode(), mode if item.mode is None else item.mode))
        return files


def _chosen(
    volume: str,
    kind: str,
    name: str,
    data: Mapping[str, bytes] | None,
    *,
    items: Sequence[KeyToPath],
    mode: int,
    optional: bool,
) -> list[_File]:
    if data is None:
        if optional:
            return []
        raise VolumeError(volume, f'{kind} "{name}" not found')
    if not items:
        return [_File(key, value, mode) for key, value in sorted(data.items())]
    files = []
    for item in items:
        if item.key not in data:
            if optional:
                continue
            raise VolumeError(volume, f'{kind} "{name}" has no key "{item.key}"')
        files.append(_File(item.path, data[item.key], mode if item.mode is None else item.mode))
    return files


def _make_empty_dir(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o777)


def _write_files(folder: Path, files: Sequence[_File]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        # The API server refuses ".." and absolute paths in items; keys have no slashes.
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        # A reader sees the old file or the new one, never half of it.
        fresh = path.with_name(f"{path.name}.headrace-new")
        fresh.unlink(missing_ok=True)
        with open(fresh, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as target:
            target.write(file.content)
        fresh.chmod(file.mode)
        fresh.replace(path)


_KINDS = {
    "Directory": ("directory", stat.S_ISDIR),
    "File": ("file", stat.S_ISREG),
    "Socket": ("socket", stat.S_ISSOCK),
    "CharDevice": ("character device", stat.S_ISCHR),
    "BlockDevice": ("block device", stat.S_ISBLK),
}


def _host_path(volume: str, source: HostPathSource) -> Path:
    path = Path(source.path)
    if source.type == "DirectoryOrCreate":
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
    elif source.type == "FileOrCreate":
        path.touch(mode=0o644, exist_ok=True)
    elif not path.exists():
        raise VolumeError(volume, f"hostPath {source.path} does not exist")
    elif source.type in _KINDS:
        word, is_kind = _KINDS[source.type]
        if not is_kind(path.stat().st_mode):
            raise VolumeError(volume, f"hostPath type check failed: {source.path} is not a {word}")
    return path
