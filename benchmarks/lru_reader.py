"""The yardstick of `epochs`: blocks through an LRU cache in memory, from the origin itself. Capacity 0: no cache."""

import threading
from collections import OrderedDict
from collections.abc import Iterator

from benchmarks.origin_process import OriginProcess


class LruReader:
    """A cache of whole blocks of at most `capacity_bytes`; what was used longest ago goes."""

    def __init__(self, origin: OriginProcess, file_bytes: int, block_bytes: int, capacity_bytes: int) -> None:
        self._origin = origin
        self._file_bytes = file_bytes
        self._block_bytes = block_bytes
        self._capacity_bytes = capacity_bytes
        self._blocks: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()

    def samples(self, path: str, sample_bytes: int) -> Iterator[int]:
        """Read a file sample by sample; yield each one's bytes."""
        held: dict[int, int] = {}
        for start in range(0, self._file_bytes, sample_bytes):
            end = min(start + sample_bytes, self._file_bytes)
            for index in range(start // self._block_bytes, (end - 1) // self._block_bytes + 1):
                if index not in held:
                    held[index] = len(self._block(path, index))
            yield end - start

    def _block(self, path: str, index: int) -> bytes:
        key = (path, index)
        with self._lock:
            if (known := self._blocks.get(key)) is not None:
                self._blocks.move_to_end(key)
                return known
        offset = index * self._block_bytes
        data = self._origin.read(path, offset, min(self._block_bytes, self._file_bytes - offset))
        with self._lock:
            if len(data) <= self._capacity_bytes and key not in self._blocks:
                self._blocks[key] = data
                self._held_bytes += len(data)
                while self._held_bytes > self._capacity_bytes:
                    _, gone = self._blocks.popitem(last=False)
                    self._held_bytes -= len(gone)
        return data
