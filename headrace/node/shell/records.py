"""What the node keeps on disk of a pod, so that a new agent can go on.

Owns the layout below the agent's folder and the reading of records. The monitors write
`run` and `exit` records and logs (launcher.py); the agent writes `pod.json` once.

    pods/<uid>/.pod.json            identity, address, GPU indices, start time
    pods/<uid>/.hosts .hostname     bound into every container
    pods/<uid>/.volumes/<name>/     emptyDir, configMap, secret, …
    pods/<uid>/<container>/<n>.log .run.json .exit.json .message .monitor.log
    pods/<uid>/<container>/.root .home

Names of containers are DNS labels, so nothing of ours that begins with a dot can meet
them. Invariant: a record is written in one step, so it is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

_T = TypeVar("_T")

#: kubelet keeps one ended start of each container beside the current one.
KEPT_ATTEMPTS = 2
MEMORY_FOLDER = Path("/dev/shm")


class PodRecord(msgspec.Struct, frozen=True):
    """What the node decided for a pod when it took it."""

    namespace: str
    name: str
    uid: str
    pod_ip: str
    start_time: float
    gpus: dict[str, tuple[int, ...]]


class RunRecord(msgspec.Struct, frozen=True):
    """A monitor as it announced itself; `main_pid` is 0 until the container runs."""

    monitor_pid: int = 0
    monitor_start_ticks: int = 0
    main_pid: int = 0
    boot_id: str = ""
    started_at: float = 0.0


class ExitRecord(msgspec.Struct, frozen=True):
    """The end of a container; `start_error` when it never came to be."""

    exit_code: int
    started_at: float
    finished_at: float
    signal: int = 0
    start_error: str = ""


class ContainerFolder:
    """Files of one container of a pod."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self) -> None:
        """Make the folder; may be called again."""
        for part in (self.path, self.path / ".root", self.path / ".home"):
            part.mkdir(mode=0o755, exist_ok=True, parents=True)

    @property
    def root(self) -> Path:
        """Empty directory the container's root is built on."""
        return self.path / ".root"

    @property
    def home(self) -> Path:
        """The container's HOME."""
        return self.path / ".home"

    def file(self, attempt: int, kind: str) -> Path:
        """Return the path of a start's `log`, `run.json`, `exit.json`, `message`, …"""
        return self.path / f"{attempt}.{kind}"

    def attempts(self) -> list[int]:
        """Return the numbers of the starts that left a record, ascending."""
        if not self.path.is_dir():
            return []
        names = [path.name.split(".", 1)[0] for path in self.path.glob("*.run.json")]
        return sorted(int(name) for name in names if name.isdecimal())

    def run_record(self, attempt: int) -> RunRecord | None:
        """Return how a start began, None when nothing is known."""
        return _read(self.file(attempt, "run.json"), RunRecord)

    def exit_record(self, attempt: int) -> ExitRecord | None:
        """Return how a start ended, None while it has not (or the monitor was killed)."""
        return _read(self.file(attempt, "exit.json"), ExitRecord)

    def forget_before(self, attempt: int) -> None:
        """Remove files of starts older than the kept ones before `attempt`."""
        for old in self.attempts():
            if old <= attempt - KEPT_ATTEMPTS:
                for path in self.path.glob(f"{old}.*"):
                    path.unlink(missing_ok=True)


class PodFolder:
    """Files of one pod."""

    def __init__(self, pods: Path, uid: str) -> None:
        self.path = pods / uid
        self.memory = MEMORY_FOLDER / f"headrace-{uid}"

    @property
    def hosts(self) -> Path:
        """The pod's /etc/hosts; always the same inode, since containers have it mounted."""
        return self.path / ".hosts"

    @property
    def hostname(self) -> Path:
        """The pod's /etc/hostname."""
        return self.path / ".hostname"

    def volume(self, name: str) -> Path:
        """Folder of a volume whose content is the node's."""
        return self.path / ".volumes" / name

    def container(self, name: str) -> ContainerFolder:
        """Files of a container."""
        return ContainerFolder(self.path / name)

    def container_names(self) -> list[str]:
        """Return the names of the containers that left files."""
        if not self.path.is_dir():
            return []
        return sorted(path.name for path in self.path.iterdir() if path.is_dir() and path.name[0] != ".")

    def record(self) -> PodRecord | None:
        """Return what was decided for the pod, None when it was never taken."""
        return _read(self.path / ".pod.json", PodRecord)

    def create(self, record: PodRecord, host_name: str) -> None:
        """Make the folder and write the record."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.hosts.touch(mode=0o644)
        self.hostname.write_text(host_name + "\n", encoding="utf-8")
        temporary = self.path / ".pod.json.tmp"
        temporary.write_bytes(msgspec.json.encode(record))
        temporary.replace(self.path / ".pod.json")

    def remove_volumes(self) -> None:
        """Remove what the pod's volumes held; logs stay."""
        shutil.rmtree(self.path / ".volumes", ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)

    def remove(self) -> None:
        """Remove everything of the pod."""
        self.remove_volumes()
        shutil.rmtree(self.path, ignore_errors=True)


def all_records(pods: Path) -> Iterator[PodRecord]:
    """Yield the records of all pods that were taken and not removed."""
    if not pods.is_dir():
        return
    for path in sorted(pods.iterdir()):
        record = PodFolder(pods, path.name).record()
        if record is not None:
            yield record


def _read(path: Path, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.DecodeError, OSError):
        # A torn or foreign file says nothing; the pod is then treated as not known.
        return None
