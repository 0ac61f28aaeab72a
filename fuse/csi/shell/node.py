"""Volumes on this node: stage, publish, unpublish, unstage, statistics; what a restart and the watchdog do.

Owns the order of steps and the locks. A target's lock is held for a whole call; a dataset's lock while its daemon or
its users change. Always the target's first. Invariants: who uses a dataset is written down before its daemon starts,
and a daemon is ended only under the lock, when nobody uses it; so no crash leaves a daemon nobody knows of.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from fuse.core.mount_table import Mount, MountTable
from fuse.csi.core import capabilities, volumes
from fuse.csi.core.capabilities import Capability
from fuse.csi.core.decisions import Wanted, described
from fuse.csi.core.owners import NOBODY_ELSE, Owner
from fuse.csi.core.volumes import DatasetRef, VolumeRequest, shown
from fuse.csi.errors import BadRequest, Conflict, NoSuchVolume, NotNow, NotPossible, Refusal
from fuse.csi.shell import metrics
from fuse.csi.shell.blocking import in_thread
from fuse.csi.shell.catalogue import Catalogue
from fuse.csi.shell.daemons import ANSWER_SECONDS, Daemons, DatasetFolders, Life
from fuse.csi.shell.locks import NamedLocks
from fuse.csi.shell.records import Records, Use
from fuse.csi.shell.targets import Targets
from fuse.node import mounts

log = structlog.get_logger()

LOCK_SECONDS: Final = 60.0
"""For the call before us, such as the start of a daemon."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Room of a mounted volume in bytes and files; `problem` in place of them when it does not answer."""

    total_bytes: int = 0
    available_bytes: int = 0
    used_bytes: int = 0
    total_files: int = 0
    available_files: int = 0
    used_files: int = 0
    problem: str = ""


class NodeVolumes:
    """All volumes of one node."""

    def __init__(
        self,
        targets: Targets,
        records: Records,
        folders: DatasetFolders,
        daemons: Daemons,
        catalogue: Catalogue,
        *,
        maps_owners: bool,
    ) -> None:
        """`maps_owners`: mounts can show files of another owner than 0:0."""
        self.maps_owners = maps_owners
        self._targets = targets
        self._records = records
        self._folders = folders
        self._daemons = daemons
        self._catalogue = catalogue
        self._target_locks = NamedLocks("path")
        self._dataset_locks = NamedLocks("the dataset of hash")

    # ---- calls --------------------------------------------------------------------------------------------

    async def stage(self, volume: VolumeRequest, path: str, capability: Capability) -> None:
        """Have the dataset's daemon before the first pod needs it. Nothing is mounted at the path."""
        self._targets.relative(path, "staging_target_path")
        async with self._target_locks.hold(path, LOCK_SECONDS):
            use = await self._use(volume, path, capability, NOBODY_ELSE, readonly=False, is_staging=True)
            async with self._using(use):
                pass

    async def publish(
        self,
        volume: VolumeRequest,
        path: str,
        capability: Capability,
        *,
        readonly: bool,
        owner: Owner = NOBODY_ELSE,
    ) -> None:
        """Have the dataset, or a directory of it, mounted at a target, with files that belong to `owner`."""
        if owner != NOBODY_ELSE and not self.maps_owners:
            raise NotPossible(
                f"files cannot be shown to belong to {owner.uid}:{owner.gid} on this node; that needs Linux 6.12, user "
                "namespaces and FUSE daemons of the raw backend"
            )
        relative = self._targets.relative(path, "target_path")
        self._targets.check_outside(relative)
        async with self._target_locks.hold(path, LOCK_SECONDS):
            use = await self._use(volume, path, capability, owner, readonly=readonly, is_staging=False)
            was_empty = not self._targets.stack(relative)
            async with self._using(use):
                try:
                    await self._mount(use, relative)
                except (Refusal, OSError):
                    if was_empty:
                        self._clear(relative)
                    raise

    async def unpublish(self, volume_id: str, path: str) -> None:
        """Have nothing at a target any more. Never asks the file system, which may be dead."""
        volumes.check_volume_id(volume_id)
        relative = self._targets.relative(path, "target_path")
        self._targets.check_outside(relative)
        async with self._target_locks.hold(path, LOCK_SECONDS):
            use = self._known(volume_id, path)
            stack = self._targets.detach(relative)
            # Without a record (its file was damaged) the mount itself told whose it was.
            refs = {use.ref} if use is not None else {ref for mount in stack if (ref := _ref_of_root(mount.root))}
            for ref in refs:
                await self._release(ref, path)
            self._targets.remove(relative)

    async def unstage(self, volume_id: str, path: str) -> None:
        """Forget a staging path; the last user's end is the daemon's end."""
        volumes.check_volume_id(volume_id)
        self._targets.relative(path, "staging_target_path")
        async with self._target_locks.hold(path, LOCK_SECONDS):
            use = self._known(volume_id, path)
            if use is not None:
                await self._release(use.ref, path)

    async def statistics(self, volume_id: str, path: str) -> Statistics:
        """Return the room of a volume that is published or staged at a path; NoSuchVolume."""
        volumes.check_volume_id(volume_id)
        use = self._records.get(path)
        if use is None or use.volume_id != volume_id:
            raise NoSuchVolume(f"volume {shown(volume_id)} is not published at volume_path {shown(path)} on this node")
        where = str(self._folders.mount(use.ref.key)) if use.is_staging else path
        mounted = self._folders.mounted(use.ref.key) if use.is_staging else self._top(path)
        if mounted is None or not mounted.is_ours:
            # Else the figures would be of the disk behind it, or of somebody else's mount.
            what = "nothing is" if mounted is None else f"a file system of type {shown(mounted.fs_type)} is"
            return Statistics(problem=f"{what} mounted where dataset {use.ref} should be, at {shown(where)}")
        try:
            room = await in_thread(
                lambda: os.statvfs(where),
                what=f"statfs of {where}",
                seconds=ANSWER_SECONDS,
                shared=f"statfs {mounted.device} {where}",
            )
        except (OSError, Refusal) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return Statistics(problem=f"the FUSE mount of dataset {use.ref} does not answer: {reason}")
        block = room.f_frsize
        return Statistics(
            total_bytes=room.f_blocks * block,
            available_bytes=room.f_bavail * block,
            used_bytes=(room.f_blocks - room.f_bfree) * block,
            total_files=room.f_files,
            available_files=room.f_favail,
            used_files=room.f_files - room.f_ffree,
        )

    def _top(self, path: str) -> Mount | None:
        stack = self._targets.stack(self._targets.relative(path, "volume_path"))
        return stack[-1] if stack else None

    def has_pod(self, uid: str) -> bool:
        """Whether a pod has any volume of ours on this node."""
        return any(self._targets.pod_of(use.path) == uid for use in self._records.all())

    # ---- without being called ------------------------------------------------------------------------------

    async def recover(self) -> None:
        """After a start: forget what a crash left half done, end daemons nobody uses. Live mounts are not touched."""
        for use in self._records.all():
            if not use.is_staging and not self._is_mounted(use):
                log.info("use_forgotten", target=use.path, reason="nothing is mounted there")
                self._records.drop(use.path)
        await self.end_unused()

    async def end_unused(self) -> None:
        """End daemons nobody uses: those a crash left, and those that would not end when they should have."""
        for key in self._folders.known():
            try:
                async with self._dataset_locks.hold(key, LOCK_SECONDS):
                    await self._stop_if_unused(key)
            except (Refusal, OSError) as error:
                log.warning("unused_daemon_not_ended", key=key, error=str(error))

    async def _stop_if_unused(self, key: str) -> None:
        if not any(use.ref.key == key for use in self._records.all()) and not self._has_binds(key):
            await self._daemons.stop(key)

    def _is_mounted(self, use: Use) -> bool:
        try:
            return bool(self._targets.stack(self._targets.relative(use.path, "target_path")))
        except BadRequest:
            return False  # of a kubelet folder we are not told of any more

    async def heal(self) -> None:
        """Start the daemons that died, and mount anew where they were. Failures are logged; the next round tries
        again."""
        lives = {key: await self._folders.life(key) for key in {use.ref.key for use in self._records.all()}}
        table = mounts.read_mount_table()
        for use in self._records.all():
            life = lives.get(use.ref.key)
            if life in {None, Life.SILENT} or (life is Life.ALIVE and not self._is_stale(use, table)):
                continue
            try:
                await self._heal(use.path)
            except (Refusal, OSError) as error:
                metrics.NOT_HEALED.inc()
                log.warning("not_healed", target=use.path, error=str(error))

    def _is_stale(self, use: Use, table: MountTable) -> bool:
        """Whether a target still has the mount of a daemon that died."""
        if use.is_staging:
            return False
        stack = self._targets.stack(self._targets.relative(use.path, "target_path"), table)
        mounted = self._folders.mounted(use.ref.key, table)
        return bool(stack) and mounted is not None and stack[-1].device != mounted.device

    async def _heal(self, path: str) -> None:
        async with self._target_locks.hold(path, LOCK_SECONDS):
            use = self._records.get(path)
            if use is None:
                return  # unpublished while we waited
            is_alive = await self._folders.life(use.ref.key) is Life.ALIVE
            if is_alive and not self._is_stale(use, mounts.read_mount_table()):
                return  # it was just being published, or published again
            async with self._dataset_locks.hold(use.ref.key, LOCK_SECONDS):
                await self._daemons.start(use.ref.key)
            if not use.is_staging:
                await self._mount(use, self._targets.relative(path, "target_path"))
            metrics.HEALED.inc()
            log.info("healed", target=path)

    # ---- steps ----------------------------------------------------------------------------------------------

    def _known(self, volume_id: str, path: str) -> Use | None:
        use = self._records.get(path)
        if use is not None and use.volume_id != volume_id:
            raise NotPossible(
                f"path {shown(path)} belongs to volume {shown(use.volume_id)}, not to volume_id {shown(volume_id)}"
            )
        return use

    async def _use(
        self,
        volume: VolumeRequest,
        path: str,
        capability: Capability,
        owner: Owner,
        *,
        readonly: bool,
        is_staging: bool,
    ) -> Use:
        """Return what this call makes of the path, as it is or as it will be."""
        known = self._records.get(path)
        if known is not None and (known.volume_id, known.is_staging) != (volume.volume_id, is_staging):
            raise Conflict(f"path {shown(path)} is in use by volume {shown(known.volume_id)}; unpublish it first")
        if known is not None:
            owner = known.owner  # neither a pod's fsGroup nor a volume's attributes change while it is there
        # A repeated call must hold without the metadata service: kubelet repeats it every minute.
        if known is not None and known.ref == volume.dataset:
            writable = known.writable
        else:
            writable = await self._catalogue.is_writable(volume.dataset)
        use = Use(
            path=path,
            volume_id=volume.volume_id,
            namespace=volume.dataset.namespace,
            dataset=volume.dataset.name,
            sub_path=volume.sub_path,
            read_only=capabilities.is_read_only(volume, capability, readonly=readonly, writable=writable),
            writable=writable,
            is_staging=is_staging,
            uid=owner.uid,
            gid=owner.gid,
        )
        if known is not None and use != known:
            # Before anything is started for it: the record names the daemon that ends with this use.
            have, want = (described(each.root, each.read_only) for each in (known, use))
            raise Conflict(f"path {shown(path)} is in use for {have}, and {want} is asked for; unpublish it first")
        return use

    @asynccontextmanager
    async def _using(self, use: Use) -> AsyncIterator[None]:
        """Have the daemon for a use; when the use does not come about, it leaves nothing behind."""
        is_new = self._records.get(use.path) is None
        try:
            async with self._dataset_locks.hold(use.ref.key, LOCK_SECONDS):
                if is_new:
                    self._records.put(use)
                await self._daemons.start(use.ref.key)
            yield
        except (Refusal, OSError):
            if is_new:
                try:
                    await self._release(use.ref, use.path)
                except (Refusal, OSError) as error:
                    # The first failure is the one to answer with; recover() finishes this.
                    log.warning("use_not_ended", target=use.path, error=str(error))
            raise

    def _clear(self, relative: str) -> None:
        """Take away what a failed publish made at a target."""
        try:
            self._targets.detach(relative)
            self._targets.remove(relative)
        except Refusal as error:
            # The first failure is the one to answer with.
            log.warning("target_not_cleared", target=relative, error=str(error))

    async def _mount(self, use: Use, relative: str) -> None:
        key = use.ref.key
        mounted = self._folders.mounted(key)
        if mounted is None:
            raise NotNow(f"the FUSE daemon of dataset {use.ref} has just ended; trying again is safe")
        wanted = Wanted(mounted.device, use.root, use.read_only, use.owner)
        await self._targets.publish(relative, str(self._folders.mount(key)), wanted)

    async def _release(self, ref: DatasetRef, path: str) -> None:
        """Forget a use, and end the daemon of a dataset nobody uses any more."""
        async with self._dataset_locks.hold(ref.key, LOCK_SECONDS):
            self._records.drop(path)
            await self._stop_if_unused(ref.key)

    def _has_binds(self, key: str) -> bool:
        """Whether a dataset's file system is mounted anywhere but at its daemon's own place."""
        mounted = self._folders.mounted(key)
        if mounted is None:
            return False
        own = str(self._folders.mount(key))
        return any(mount.point != own for mount in mounts.read_mount_table().of_device(mounted.device))


def _ref_of_root(root: str) -> DatasetRef | None:
    parts = root.split("/")
    return DatasetRef(parts[1], parts[2]) if len(parts) > 2 else None


async def watch(node: NodeVolumes, seconds: float) -> None:
    """Heal and clear up every so many seconds, for ever."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await node.heal()
            await node.end_unused()
        except Exception as error:  # a defect must not be the end of all healing
            metrics.DEFECTS.labels("heal").inc()
            log.error("defect", method="heal", error=repr(error), exc_info=error)
