"""The CSI plugin as a process beside a DataPlane, and its calls as a person would write them."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc

from api.gen import csi_pb2 as csi
from api.gen import csi_pb2_grpc
from benchmarks.data_plane import DataPlane, Process
from fuse.core import mount_table

CALL_SECONDS: Final = 120.0
STOP_SECONDS: Final = 30.0
DEADLINE_SECONDS: Final = 60.0
READERS: Final = csi.VolumeCapability.AccessMode.MULTI_NODE_READER_ONLY
WRITERS: Final = csi.VolumeCapability.AccessMode.MULTI_NODE_MULTI_WRITER


def capability(mode: Any = READERS, group: str = "") -> csi.VolumeCapability:
    """A mount with this access mode, for a pod with this fsGroup."""
    return csi.VolumeCapability(
        mount=csi.VolumeCapability.MountVolume(volume_mount_group=group),
        access_mode=csi.VolumeCapability.AccessMode(mode=mode),
    )


class CsiNode:
    """A context: one node's plugin with its folders. Leaving it unmounts everything and ends every daemon."""

    def __init__(self, plane: DataPlane, folder: Path, *, arguments: Sequence[str] = ()) -> None:
        self.plane = plane
        self.folder = folder
        self.state = folder / "s"
        self.kubelet = folder / "k"
        self.socket = folder / "csi.sock"
        self._arguments = list(arguments)
        self.process: Process | None = None
        self._channel: grpc.Channel | None = None
        self._logs: list[Process] = []

    def __enter__(self) -> Self:
        self.kubelet.mkdir(parents=True)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def daemon_settings(self) -> list[str]:
        """The arguments plugin and launcher share."""
        return [
            *["--node", "n1", "--metadata", self.plane.metadata_address],
            *["--worker-socket", str(self.plane.socket("n1")), "--state", str(self.state)],
        ]

    def _command(self) -> list[str]:
        own = ["--kubelet", str(self.kubelet), "--socket", str(self.socket)]
        return ["-m", "fuse.csi", *self.daemon_settings(), *own, *self._arguments]

    def start(self) -> Process:
        """Start the plugin; returns once it serves."""
        process = self.plane.spawn(f"csi-{len(self.plane.processes)}", self._command())
        self.plane._await(process, "ready event", lambda: any(e["event"] == "ready" for e in process.events()))
        self.process = process
        self._logs.append(process)
        self._channel = grpc.insecure_channel(f"unix:{self.socket}")
        return process

    def stop(self, number: int = 15) -> None:
        """End the plugin, and nothing else."""
        if self._channel is not None:
            self._channel.close()
        if self.process is not None:
            self.process.stop(number)

    def close(self) -> None:
        """End the plugin, unmount what is below its folder, and end its daemons."""
        self.stop()
        for mount in reversed(self.mounts()):
            subprocess.run(["umount", "-l", mount.point], check=False, capture_output=True, timeout=STOP_SECONDS)
        for pid in self.daemons():
            os.kill(pid, 9)

    @property
    def node(self) -> csi_pb2_grpc.NodeStub:
        """The Node service."""
        assert self._channel is not None
        return csi_pb2_grpc.NodeStub(self._channel)

    @property
    def identity(self) -> csi_pb2_grpc.IdentityStub:
        """The Identity service."""
        assert self._channel is not None
        return csi_pb2_grpc.IdentityStub(self._channel)

    # ---- calls ----

    def target(self, pod: str) -> Path:
        """Where kubelet wants a pod's volume; the parent is there."""
        path = self.kubelet / "pods" / pod / "volumes" / "mount"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def publish(
        self,
        pod: str,
        volume_id: str,
        *,
        mode: Any = READERS,
        readonly: bool = False,
        group: str = "",
        context: Mapping[str, str] | None = None,
    ) -> Path:
        """NodePublishVolume for a pod; returns the target."""
        target = self.target(pod)
        self.node.NodePublishVolume(
            csi.NodePublishVolumeRequest(
                volume_id=volume_id,
                target_path=str(target),
                staging_target_path=str(self.kubelet / "staging"),
                volume_capability=capability(mode, group),
                readonly=readonly,
                volume_context=dict(context or {}),
            ),
            timeout=CALL_SECONDS,
        )
        return target

    def unpublish(self, pod: str, volume_id: str) -> None:
        """NodeUnpublishVolume for a pod."""
        request = csi.NodeUnpublishVolumeRequest(volume_id=volume_id, target_path=str(self.target(pod)))
        self.node.NodeUnpublishVolume(request, timeout=CALL_SECONDS)

    def defects(self) -> list[str]:
        """What the plugin, in all its lives, logged as exceptions nobody expected."""
        events = [event for process in self._logs for event in process.events()]
        return [event["error"] for event in events if event["event"] == "defect"]

    # ---- what the machine says ----

    def mounts(self) -> list[mount_table.Mount]:
        """Every mount below our folder."""
        with Path("/proc/self/mountinfo").open(encoding="utf-8", errors="surrogateescape") as lines:
            table = mount_table.parse(line.rstrip("\n") for line in lines)
        return [mount for mount in table.mounts if mount.point.startswith(f"{self.folder}/")]

    def daemons(self) -> list[int]:
        """Every process of a FUSE client whose mount is below our folder."""
        return sorted(self._processes())

    def settled_daemons(self) -> list[int]:
        """The same once none has come or gone for half a second: one that starts another program is there twice until
        that program runs."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        found, same = self.daemons(), 0
        while same < 5:
            assert time.monotonic() < deadline, "daemons come and go"
            time.sleep(0.1)
            latest = self.daemons()
            same = same + 1 if latest == found else 0
            found = latest
        return found

    def clients(self) -> int:
        """How many FUSE clients that is: one mount each, by one process or several."""
        return len(set(self._processes().values()))

    def _processes(self) -> dict[int, bytes]:
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                mount = words[words.index(b"--mount") + 1] if b"--mount" in words else b""
                if mount.startswith(os.fsencode(self.state)):
                    found[int(entry.name)] = mount
        return found


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something holds; AssertionError when it does not in a minute."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def refusal(call: Any) -> tuple[str, str]:
    """The code and the sentence a call is refused with."""
    try:
        call()
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError("the call was not refused")
