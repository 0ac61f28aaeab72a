"""Targets on this node: directories below kubelet's folder that get a bind mount of a dataset.

Owns mounting at a target and taking mounts away there. The caller holds the target's lock. Invariants: a target has
at most one living mount, above at most one dead one; whatever is not ours stays.
"""

import errno
import os
from typing import Final

import structlog

from fuse.core.mount_table import Mount, MountTable
from fuse.csi.core import decisions, paths
from fuse.csi.core.decisions import Step, Wanted
from fuse.csi.core.owners import NOBODY_ELSE
from fuse.csi.core.volumes import shown
from fuse.csi.errors import BadRequest, NoSuchVolume, NotNow, NotPossible, Refusal
from fuse.csi.shell import idmap, kernel
from fuse.csi.shell.blocking import in_thread
from fuse.node import mounts

log = structlog.get_logger()

LOOKUP_SECONDS: Final = 30.0
"""For a path inside a dataset: the daemon itself waits 15 s for a restarting metadata service."""


class Targets:
    """All targets below one folder; close it."""

    def __init__(self, folder: str) -> None:
        """`folder`: absolute; links in its own path are followed, none below it are. OSError."""
        self._folder = folder.rstrip("/")
        # As the mount table writes it.
        self._real = os.path.realpath(folder)
        self._root = kernel.open_root(folder)

    def close(self) -> None:
        """Close the folder."""
        os.close(self._root)

    def relative(self, path: str, field: str) -> str:
        """Return a path relative to the folder; BadRequest naming the field."""
        return paths.below(self._folder, path, field)

    def pod_of(self, path: str) -> str:
        """Return the uid of the pod whose target a path is; "" = it is no pod's."""
        return paths.pod_of(self._folder, path)

    def check_outside(self, relative: str) -> None:
        """BadRequest when a target is inside a mount of ours."""
        path = f"{self._real}/{relative}"
        decisions.check_outside(f"{self._folder}/{relative}", mounts.read_mount_table().around(path))

    def stack(self, relative: str, table: MountTable | None = None) -> list[Mount]:
        """Return what is mounted at a target, the top last; by a table that was just read, if there is one."""
        return (table or mounts.read_mount_table()).at(f"{self._real}/{relative}")

    async def publish(self, relative: str, source: str, wanted: Wanted) -> None:
        """Have `wanted` at a target; `source` is where its file system is mounted whole. A Refusal, OSError."""
        stack = self.stack(relative)
        step = decisions.at_publish(f"{self._folder}/{relative}", stack, wanted)
        if step is Step.NOTHING:
            return
        tree = await self._clone(source, wanted)
        try:
            if step is Step.REPLACE:
                # The lowest dead mount stays: pods that run were given exactly that one, and what is mounted on top
                # of it reaches them (with mountPropagation: HostToContainer). Dead ones above it only pile up.
                for _ in stack[1:]:
                    kernel.detach(self._root, relative)
                self._attach_over(tree, relative, stack[0])
                log.warning("dead_mount_replaced", target=relative)
            else:
                self._make(relative)
                kernel.attach(tree, self._root, relative)
        except OSError as error:
            raise self._refusal(relative, error) from error
        finally:
            os.close(tree)

    def _attach_over(self, tree: int, relative: str, dead: Mount) -> None:
        try:
            kernel.attach(tree, self._root, relative)
        except OSError as error:
            if error.errno != errno.ENOENT or not dead.is_ours:
                raise
            # The kernel mounts on nothing that is gone from its own file system, such as a directory that was removed.
            # Pods that run keep what they have; containers that start get what is mounted now.
            log.warning("dead_mount_taken_away", target=relative)
            kernel.detach(self._root, relative)
            kernel.attach(tree, self._root, relative)

    async def _clone(self, source: str, wanted: Wanted) -> int:
        inside = wanted.root.lstrip("/")

        def clone() -> int:
            root = kernel.open_root(source)
            try:
                directory = kernel.open_beneath(root, inside, same_file_system=True)
            finally:
                os.close(root)
            try:
                return _cloned(directory, wanted)
            finally:
                os.close(directory)

        try:
            return await in_thread(clone, what=f"opening {shown(inside)}", seconds=LOOKUP_SECONDS, late=os.close)
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise NoSuchVolume(
                    f"there is no directory {shown(inside)} to mount; dataset or subPath is gone"
                ) from None
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise BadRequest(f"{shown(inside)} is no directory; subPath must name one") from None
            raise NotNow(f"{shown(inside)} cannot be opened ({error.strerror}); trying again is safe") from error

    def _make(self, relative: str) -> None:
        try:
            kernel.make_target(self._root, relative)
        except FileNotFoundError as error:
            raise NotPossible(
                f"the parent of target_path {shown(relative)} is not there; the caller must make it first"
            ) from error

    def detach(self, relative: str) -> list[Mount]:
        """Take away our mounts at a target, and return them; never asks their file system. A Refusal."""
        stack = self.stack(relative)
        try:
            for _ in range(decisions.at_unpublish(f"{self._folder}/{relative}", stack)):
                kernel.detach(self._root, relative)
        except OSError as error:
            raise self._refusal(relative, error) from error
        return stack

    def remove(self, relative: str) -> None:
        """Remove a target's empty directory, if it is there. A Refusal."""
        try:
            kernel.remove_target(self._root, relative)
        except OSError as error:
            raise self._refusal(relative, error) from error

    def _refusal(self, relative: str, error: OSError) -> Refusal:
        path = shown(f"{self._folder}/{relative}")
        if error.errno == errno.ELOOP:
            return BadRequest(f"target_path {path} leads through a symbolic link; it must be a plain directory")
        if error.errno == errno.ENOTDIR:
            return BadRequest(f"target_path {path} is no directory, or leads through a file; it must be a directory")
        if error.errno == errno.ENOTEMPTY:
            return NotPossible(f"target_path {path} has files of its own in it, and stays; remove them by hand")
        return NotPossible(f"target_path {path} cannot be used: {error.strerror}")


def _cloned(directory: int, wanted: Wanted) -> int:
    if wanted.owner == NOBODY_ELSE:
        return kernel.clone_directory(directory, read_only=wanted.read_only)
    try:
        with idmap.user_namespace(wanted.owner) as owners:
            return kernel.clone_directory(directory, read_only=wanted.read_only, owners=owners)
    except OSError as error:
        who = f"{wanted.owner.uid}:{wanted.owner.gid}"
        if wanted.read_only:
            # Files are read by everybody, as a rule: what ran before an upgrade runs after it.
            log.warning("owner_not_shown", owner=who, error=error.strerror)
            return kernel.clone_directory(directory, read_only=True)
        raise NotPossible(
            f"files cannot be shown to belong to {who} ({error.strerror}); the dataset's FUSE daemon is of the pyfuse3 "
            "backend or an older release, which ends with the last pod on this node that has the dataset"
        ) from error
