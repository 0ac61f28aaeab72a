"""Holds the namespaces of one real node: `python holder.py FOLDER HOSTNAME`.

Owns making the mount, network, process and host name namespaces, and what the node sees of the machine's file system:
the machine's root, with folders of the node's own where kubelet and containerd keep things. Standard library only, and
no other module of ours: it is the node's first process, and small. Invariants: whatever ends this process ends every
process of the node, by the kernel; nothing mounted here is seen outside; the machine's own settings are not reached."""

# System calls by path strings; this file runs by itself, so it logs to its standard error.
from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
from pathlib import Path

MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 1 << 18, 1 << 20
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x04000000, 0x20000000, 0x40000000
PR_SET_PDEATHSIG, MNT_DETACH = 1, 2
#: Holds the node's first process' id, once the namespaces are as they should be.
INIT_FILE = "init.pid"
#: Folders of the node's that cover the machine's: (below FOLDER, of the machine).
COVERED = (("var-lib", "/var/lib"), ("var-log", "/var/log"), ("etc-headrace", "/etc/headrace"))
#: Below FOLDER: files that cover settings of the machine, by their path below /proc/sys.
SYSCTLS = "sysctls"

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}{arguments}: {os.strerror(code)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = (source.encode(), target.encode(), kind.encode() or None)
    _call("mount", *words, ctypes.c_ulong(flags), data.encode() or None)


def _arrange(folder: Path) -> None:
    """Give the node its view of the file system; called by its first process."""
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _let_go_of_others()
    for file in sorted(path for path in (folder / SYSCTLS).rglob("*") if path.is_file()):
        _mount(str(file), f"/proc/sys/{file.relative_to(folder / SYSCTLS)}", flags=MS_BIND)
    # What is made in /etc is the node's own too (a hostPath, for one); all else there is the machine's.
    layers = f"lowerdir=/etc,upperdir={folder}/etc,workdir={folder}/etc-work"
    _mount("overlay", "/etc", "overlay", data=layers)
    for own, machine in COVERED:
        Path(machine).mkdir(exist_ok=True)
        _mount(str(folder / own), machine, flags=MS_BIND)
    _mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    Path("/run/lock").mkdir()
    # From here on: mounts of pods reach the node, and those of the node reach pods.
    _mount("none", "/", flags=MS_REC | MS_SHARED)


def _let_go_of_others() -> None:
    """Detach the machine's FUSE mounts: copies of them here would keep each alive when its owner unmounts it."""
    for line in reversed(
        Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    ):
        fields, _, kind = line.partition(" - ")
        if kind.split(" ")[0].partition(".")[0] == "fuse":
            point = re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), os.fsencode(fields.split(" ")[4]))
            _call("umount2", point, MNT_DETACH)


def _first_process(folder: Path, hostname: str, ready: int) -> None:
    _call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.setsid()
    name = hostname.encode()
    _call("sethostname", name, len(name))
    _arrange(folder)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    os.write(ready, b"1")
    os.close(ready)
    # The first process of a namespace inherits every orphan in it: containers' monitors, mostly.
    while True:
        signal.sigwaitinfo({signal.SIGCHLD})
        _reap()


def _reap() -> None:
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return


def main() -> int:
    """Hold until SIGTERM; returns when every process of the node is gone."""
    folder, hostname = Path(sys.argv[1]), sys.argv[2]
    announced = folder / INIT_FILE
    announced.unlink(missing_ok=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    # Mounts are the child's only: this process stays where it can write below FOLDER whatever covers it there.
    _call("unshare", CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWUTS)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        try:
            _call("unshare", CLONE_NEWNS)
            _first_process(folder, hostname, writer)
        except OSError as error:
            print(f"the node's namespaces cannot be arranged: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(1)
    os.close(writer)
    if os.read(reader, 1) == b"1":
        temporary = announced.with_suffix(".tmp")
        temporary.write_text(str(child), encoding="ascii")
        temporary.rename(announced)
        signal.sigwaitinfo({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)  # returns when the kernel has ended all that was in the namespace
    announced.unlink(missing_ok=True)
    return 0 if os.waitstatus_to_exitcode(status) == -signal.SIGKILL else 1


if __name__ == "__main__":
    sys.exit(main())
