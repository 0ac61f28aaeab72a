"""Reads of a dataset through a node's worker, by the SDK: what a training process without a mount does."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from api.gen import metadata_pb2 as pb
from headrace_sdk.files import Pinned
from headrace_sdk.worker import Worker

PIECE_BYTES: Final = 8 << 20


class CachedReader:
    """One node's way to a dataset; may be used by several threads."""

    def __init__(self, socket: Path, uid: str, entries: Mapping[str, pb.Entry]) -> None:
        self._worker = Worker(str(socket))
        self._versions: dict[str, dict[str, Any]] = {
            path: {"uid": uid, "path": path, "etag": entry.etag, "size_bytes": entry.size_bytes}
            for path, entry in entries.items()
        }

    def read_whole(self, path: str) -> int:
        """Read a file from beginning to end; return its bytes."""
        buffer = memoryview(bytearray(min(PIECE_BYTES, max(1, self._versions[path]["size_bytes"]))))
        total = 0
        with Pinned(self._worker, self._versions[path]) as file:
            while count := file.readinto(buffer):
                total += count
        return total

    def samples(self, path: str, sample_bytes: int) -> Iterator[int]:
        """Read a file sample by sample; yield each one's bytes."""
        buffer = bytearray(sample_bytes)
        with Pinned(self._worker, self._versions[path]) as file:
            while count := file.readinto(buffer):
                yield count
