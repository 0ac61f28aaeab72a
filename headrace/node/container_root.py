"""A container's own view of the file system, built by the container's first process.

Owns the mount namespace: a new root (a tmpfs holding the host's entries, bound one by
one), the volumes over it, the host name. Standard library only, since the launcher
imports it without site-packages.

Why a new root and not binds over the host's: a mount path that the host does not have
must appear in the container without being made on the host. So the directories above
such a path are rebuilt on the tmpfs, and everything beside them is bound from the host.
/dev is always rebuilt, because `/dev/termination-log` belongs to the container.

Invariants: nothing mounted here propagates to the host (the copy of the tree is made a
slave first; what the host mounts later below a shared mount does come in). Nothing is
created on the host, except mount points inside writable volumes, as runc does."""

# System calls by path strings: paths here are strings for system calls; pathlib would normalise and follow links.
# ruff: noqa: PTH101, PTH102, PTH103, PTH110, PTH112, PTH115, PTH116, PTH120, PTH211
from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_MOVE, MS_REC, MS_SLAVE = 0x20, 0x1000, 0x2000, 0x4000, 1 << 19
MS_UNBINDABLE, MS_PRIVATE = 1 << 17, 1 << 18
MS_NOATIME, MS_NODIRATIME, MS_RELATIME = 1024, 2048, 1 << 21
MNT_DETACH = 2
#: mount_setattr(2) has the same number on every architecture.
SYS_MOUNT_SETATTR, AT_FDCWD, MOUNT_ATTR_RDONLY = 442, -100, 1
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWUSER = 0x00020000, 0x04000000, 0x10000000
#: statvfs flag -> mount flag: a remount that drops one of these is refused in a user namespace.
_KEPT_FLAGS = {
    os.ST_NOSUID: MS_NOSUID,
    os.ST_NODEV: MS_NODEV,
    os.ST_NOEXEC: MS_NOEXEC,
    os.ST_NOATIME: MS_NOATIME,
    os.ST_NODIRATIME: MS_NODIRATIME,
    os.ST_RELATIME: MS_RELATIME,
}
#: A rebuilt directory costs one mount an entry; the kernel allows 100,000 a namespace.
MAX_REBUILT_ENTRIES = 4096
ALWAYS_REBUILT = ("/", "/dev")

_libc = ctypes.CDLL(None, use_errno=True)


class RootError(Exception):
    """The root could not be built; the text names the path and the reason."""


@dataclass(frozen=True)
class Bind:
    """One mount of the container: `source` (a path on the host) appears at `target`."""

    source: str
    target: str
    read_only: bool = False


def _call(name: str, what: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    options = None if data is None else data.encode()
    _call("mount", f"mount {source or kind or ''} on {target}", *encoded, ctypes.c_ulong(flags), options)


def canonical(target: str, realpath: Callable[[str], str] = os.path.realpath) -> str:
    """Return `target` with the host's symbolic links followed, so that it names the place they lead to."""
    return realpath(os.path.normpath("/" + target.lstrip("/")))


def rebuilt_directories(missing: Iterable[str], is_directory: Callable[[str], bool]) -> set[str]:
    """Return the host directories to be rebuilt so that each path of `missing` can be made below them.

    Those are all ancestors of a missing path that exist on the host. `is_directory` tells that."""
    result = set(ALWAYS_REBUILT)
    for path in missing:
        for ancestor in Path(path).parents:
            if is_directory(str(ancestor)):
                result.add(str(ancestor))
    return result


def enter(binds: Sequence[Bind], *, root: str, hostname: str, as_root: bool, uid: int = 0, gid: int = 0) -> None:
    """Put the calling process into a new mount and UTS namespace with `binds` in place.

    `root` is an empty directory on the host, only used while building. `uid` and `gid` are
    the caller's own when it is not root. Raises RootError or OSError; the process is then
    in an undefined state and must exit."""
    targets = [Bind(bind.source, canonical(bind.target), bind.read_only) for bind in binds]
    targets.sort(key=lambda bind: bind.target.count("/"))
    unshare = CLONE_NEWNS | CLONE_NEWUTS | (0 if as_root else CLONE_NEWUSER)
    _call("unshare", "unshare", unshare)
    if not as_root:
        _map_user(uid, gid)
    _call("sethostname", "sethostname", hostname.encode(), len(hostname.encode()))
    _mount(None, "/", None, MS_REC | MS_SLAVE)
    _build(targets, root, as_root=as_root)
    _change_root(root)


def _map_user(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny", encoding="ascii")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1", encoding="ascii")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1", encoding="ascii")


def _build(binds: Sequence[Bind], root: str, *, as_root: bool) -> None:
    host_level = [bind for bind in binds if not _is_inside_another(bind, binds)]
    missing = [bind.target for bind in host_level if not os.path.lexists(bind.target)]
    rebuilt = rebuilt_directories(missing, os.path.isdir)
    _mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=755")
    # Binding the directory that holds the new root must not copy what is built so far.
    _mount(None, root, None, MS_UNBINDABLE)
    _populate("/", root, rebuilt, as_root=as_root)
    for bind in binds:
        _place(bind, root, may_create=bind.target in missing or bind not in host_level)


def _is_inside_another(bind: Bind, binds: Sequence[Bind]) -> bool:
    return any(other is not bind and bind.target.startswith(other.target.rstrip("/") + "/") for other in binds)


def _populate(source: str, target: str, rebuilt: set[str], *, as_root: bool) -> None:
    entries = sorted(os.scandir(source), key=lambda entry: entry.name)
    if len(entries) > MAX_REBUILT_ENTRIES:
        raise RootError(
            f"a mountPath below {source} would need {len(entries)} mounts, one for each entry there; "
            f"choose a mountPath outside {source}"
        )
    for entry in entries:
        place = f"{target.rstrip('/')}/{entry.name}"
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif entry.path in rebuilt:
            os.mkdir(place)
            _populate(entry.path, place, rebuilt, as_root=as_root)
            _copy_mode(entry.path, place)
        else:
            _show(entry.path, place, as_root=as_root)


def _show(source: str, place: str, *, as_root: bool) -> None:
    """Make one entry of the host appear at `place`."""
    try:
        status = os.lstat(source)
        if stat.S_ISDIR(status.st_mode):
            os.mkdir(place)
            _mount(source, place, None, MS_BIND | MS_REC)
        elif as_root and (stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)):
            # A node of the same numbers is the same device, and costs no mount.
            os.mknod(place, status.st_mode, status.st_rdev)
            os.chown(place, status.st_uid, status.st_gid)
            os.chmod(place, stat.S_IMODE(status.st_mode))
        else:
            _touch(place)
            _mount(source, place, None, MS_BIND)
    except OSError as error:
        # An entry that vanished, or a dead mount beside the path, is no reason not to start.
        if error.errno not in (errno.ENOENT, errno.ENOTCONN, errno.EACCES, errno.EPERM):
            raise


def _place(bind: Bind, root: str, *, may_create: bool) -> None:
    """Mount one bind at its target below `root`."""
    place = root + bind.target
    if not os.path.exists(bind.source):
        raise RootError(f"the source {bind.source} of mountPath {bind.target} does not exist")
    is_directory = os.path.isdir(bind.source)
    if not os.path.lexists(place):
        if not may_create:
            raise RootError(f"mountPath {bind.target} cannot be made")
        _make_mount_point(place, is_directory, root)
    elif os.path.isdir(place) != is_directory:
        kinds = {True: "a directory", False: "a file"}
        raise RootError(
            f"mountPath {bind.target} is {kinds[not is_directory]}, but the volume's source is "
            f"{kinds[is_directory]}: are you trying to mount a directory onto a file (or the other way round)?"
        )
    if os.path.realpath(place) != place:
        raise RootError(f"mountPath {bind.target} leads through a symbolic link inside a volume")
    _mount(bind.source, place, None, MS_BIND | MS_REC)
    if bind.read_only:
        _make_read_only(place)


def _make_read_only(place: str) -> None:
    # The system call changes one flag and never asks the file system, which may be a FUSE daemon.
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY, 0, 0, 0)
    arguments = (AT_FDCWD, os.fsencode(place), 0, attributes, ctypes.c_size_t(len(attributes)))
    if _libc.syscall(ctypes.c_long(SYS_MOUNT_SETATTR), *arguments) == 0:
        return
    if ctypes.get_errno() != errno.ENOSYS:
        raise OSError(ctypes.get_errno(), f"make {place} read-only: {os.strerror(ctypes.get_errno())}")
    # Kernels before 5.12.
    flags = os.statvfs(place).f_flag
    kept = sum(mount_flag for flag, mount_flag in _KEPT_FLAGS.items() if flags & flag)
    _mount(None, place, None, MS_BIND | MS_REMOUNT | MS_RDONLY | kept)


def _make_mount_point(place: str, is_directory: bool, root: str) -> None:
    parent = os.path.dirname(place)
    existing = parent
    while not os.path.lexists(existing):
        existing = os.path.dirname(existing)
    if os.path.realpath(existing) != existing or not (existing + "/").startswith(root + "/"):
        raise RootError(f"mountPath {place[len(root) :]} leads through a symbolic link inside a volume")
    try:
        os.makedirs(place if is_directory else parent, exist_ok=True)
        if not is_directory:
            _touch(place)
    except OSError as error:
        raise RootError(f"mountPath {place[len(root) :]} cannot be made: {error.strerror}") from error


def _touch(place: str) -> None:
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _copy_mode(source: str, place: str) -> None:
    status = os.stat(source)
    os.chmod(place, stat.S_IMODE(status.st_mode))
    try:
        os.chown(place, status.st_uid, status.st_gid)
    except OSError:
        # In a user namespace only the own id is mapped; the mode is what matters there.
        return


def _change_root(root: str) -> None:
    _mount(None, root, None, MS_PRIVATE)
    os.chdir(root)
    try:
        _call("pivot_root", "pivot_root", b".", b".")
        # The old root now lies over the new one at "/"; detach it.
        _call("umount2", "umount /", b".", MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # The initial ramfs cannot be pivoted away from; moving over it does the same here.
        _mount(".", "/", None, MS_MOVE)
        os.chroot(".")
    os.chdir("/")


def join(pid: int) -> None:
    """Put the calling process into the mount and UTS namespaces of a running container's process."""
    namespaces = ["mnt", "uts"]
    if os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user"):
        namespaces.insert(0, "user")
    descriptors = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in namespaces]
    for descriptor in descriptors:
        _call("setns", "setns", descriptor, 0)
        os.close(descriptor)
    os.chdir("/")
