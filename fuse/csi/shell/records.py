"""What the plugin has to know after its restart: who uses which dataset, one small file each.

Owns the folder's layout and atomic writes. The mount table stays the truth about mounts; a record adds what it does
not show: the volume's id, and users without a mount (staging). Names of files are hashes. The folder is meant to be
on a tmpfs (/run), so that a reboot, which ends all mounts, ends the records too.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from fuse.csi.core.owners import Owner
from fuse.csi.core.volumes import DatasetRef, VolumeRequest, shown
from fuse.csi.errors import NotNow

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a dataset: a published target, or a staging path (nothing is mounted there)."""

    path: str
    volume_id: str
    namespace: str
    dataset: str
    sub_path: str
    read_only: bool
    #: Whether the dataset took writes when the use began.
    writable: bool
    is_staging: bool
    #: Who its files are shown to belong to.
    uid: int = 0
    gid: int = 0

    @property
    def owner(self) -> Owner:
        """Who its files are shown to belong to."""
        return Owner(self.uid, self.gid)

    @property
    def root(self) -> str:
        """The directory inside the FUSE mount."""
        return VolumeRequest(self.volume_id, self.ref, self.sub_path, is_inline=False).root

    @property
    def ref(self) -> DatasetRef:
        """The dataset that is used."""
        return DatasetRef(self.namespace, self.dataset)


class Records:
    """All uses on this node, in memory and on disk. Not for threads."""

    def __init__(self, folder: Path) -> None:
        """Read what is there; a file that cannot be read is removed and logged. OSError."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._uses: dict[str, Use] = {}
        for file in sorted(folder.iterdir()):
            if file.name.startswith("."):
                file.unlink()  # a write that a crash cut off
                continue
            try:
                use = Use(**json.loads(file.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                # Written whole or not at all, so this is damage. The mount table still knows the mount.
                log.warning("record_dropped", file=file.name, error=str(error))
                file.unlink()
                continue
            self._uses[use.path] = use

    def get(self, path: str) -> Use | None:
        """Return the use at this path."""
        return self._uses.get(path)

    def all(self) -> list[Use]:
        """Return every use."""
        return list(self._uses.values())

    def put(self, use: Use) -> None:
        """Remember a use; when this returns it outlives the process. NotNow when there is no room for it."""
        file = self._file(use.path)
        temporary = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            try:
                temporary.write_text(json.dumps(asdict(use)), encoding="utf-8")
                temporary.replace(file)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise self._refusal(use.path, error) from error
        self._uses[use.path] = use

    def drop(self, path: str) -> None:
        """Forget a use, if there is one. NotNow when its file cannot be removed."""
        try:
            self._file(path).unlink(missing_ok=True)
        except OSError as error:
            raise self._refusal(path, error) from error
        self._uses.pop(path, None)

    def _refusal(self, path: str, error: OSError) -> NotNow:
        return NotNow(
            f"who uses path {shown(path)} cannot be written down in {self._folder} ({error.strerror}); that folder "
            "must take files, trying again is safe"
        )

    def _file(self, path: str) -> Path:
        return self._folder / hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()
