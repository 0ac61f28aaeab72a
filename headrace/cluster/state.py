"""What a local cluster remembers: one folder, one JSON file, one lock.

Owns the folder's layout and the file's format. Does not start or stop anything.
Invariants: the file is replaced atomically; only the holder of the lock writes
it; everything in the folder is readable by its owner only."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from headrace.cluster.processes import ProcessRecord
from headrace.errors import ClusterError

FORMAT = 1


@dataclass(slots=True)
class ComponentState:
    """One component as last started. `starts` counts every start, so restarts are `starts - 1`."""

    process: ProcessRecord
    #: The command line it was started with: another one means it must be restarted.
    argv: list[str]
    log: str
    address: str = ""
    node: str = ""
    starts: int = 1


@dataclass(slots=True)
class ClusterState:
    """The content of state.json."""

    name: str
    #: Name of a listener -> its port. Kept over restarts, so that kubeconfigs stay valid.
    ports: dict[str, int] = field(default_factory=dict)
    #: In the order they were started; stopped in reverse.
    components: dict[str, ComponentState] = field(default_factory=dict)
    #: The options of the last `up`, so that `up` without options brings back the same cluster.
    options: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @staticmethod
    def from_json(text: str) -> ClusterState:
        """Read the file's text. Raises ValueError or KeyError when it is not ours."""
        data = json.loads(text)
        if data["format"] != FORMAT:
            raise ValueError(f"format {data['format']!r}, this version reads {FORMAT}")
        components = {
            name: ComponentState(**{**value, "process": ProcessRecord(**value["process"])})
            for name, value in data["components"].items()
        }
        return ClusterState(name=data["name"], ports=data["ports"], components=components, options=data["options"])


class ClusterFolder:
    """The folder of one cluster and the paths in it."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def state_file(self) -> Path:
        """The JSON file."""
        return self.root / "state.json"

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self.root / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.root / "pki"

    def log(self, component: str) -> Path:
        """The log of a component (`node-0/worker` -> logs/node-0.worker.log)."""
        return self.root / "logs" / f"{component.replace('/', '.')}.log"

    def create(self) -> None:
        """Make the folder, for its owner only. May be called twice."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise ClusterError(
                f"the cluster's folder {self.root} cannot be made: {error.strerror}; choose another with --dir"
            ) from error

    def exists(self) -> bool:
        """True when a cluster was started here and not purged."""
        return self.state_file.exists()

    def load(self) -> ClusterState | None:
        """The recorded state, or None when there is none. Raises ClusterError when it is unreadable."""
        try:
            text = self.state_file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return ClusterState.from_json(text)
        except (ValueError, KeyError, TypeError) as error:
            raise ClusterError(
                f"{self.state_file} is not a state file this version can read ({error}); "
                "stop what it names by hand, remove the folder and start again"
            ) from error

    def save(self, state: ClusterState) -> None:
        """Replace the state file atomically and durably."""
        write_private(self.state_file, state.to_json())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder's lock. Raises ClusterError when another command holds it."""
        self.create()
        descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ClusterError(
                    f"another headrace command is changing the cluster in {self.root}; wait for it to end"
                ) from None
            yield
        finally:
            os.close(descriptor)


def write_private(path: Path, content: str | bytes, *, owner: int | None = None) -> None:
    """Replace a file atomically, mode 0600, flushed to disk before the rename; `owner`: a user id, else ours."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if owner is not None:
                os.fchown(descriptor, owner, -1)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def default_root(name: str, environ: Mapping[str, str]) -> Path:
    """Where a cluster of this name lives when no --dir is given."""
    base = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".local/state")
    return Path(base) / "headrace" / name
