"""Memory for blocks in flight, used again by the next ones, and where a page begins.

Owns the spare buffers. A fresh block of memory costs the kernel a fault and a zeroed page every 4 KiB, which takes
longer than reading the block from a page cache; and whoever allocates it, the event loop, waits for that.

Invariant: memory is spare only when nothing refers to it any more, neither a view nor the thread or socket that fills
it, also after who asked for it was cancelled. The garbage collector is who knows that, so it gives back.
"""

import mmap
import weakref
from collections import deque
from typing import Final

import numpy as np

SPARE_MAX: Final = 16
"""Of 4 MiB each: what one sequential reader has in flight, twice."""
ALLOCATED_BYTES_MAX: Final = 128 << 10
"""malloc keeps and reuses what is smaller by itself; larger memory it may ask of the kernel each time."""


def page_aligned(size_bytes: int) -> memoryview:
    """Return fresh memory that begins where a page does, for bytes that come from a page cache or go to one.

    malloc's large memory begins 16 bytes behind a page's beginning. A processor takes every load of a copy from a page
    to there for one that waits for the store before it (their addresses are alike in the last 12 bits): such copies
    take four times as long.
    """
    return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def fresh(size_bytes: int) -> memoryview:
    """Return memory of that size, by the way that is quickest for it."""
    return page_aligned(size_bytes) if size_bytes > ALLOCATED_BYTES_MAX else memoryview(bytearray(size_bytes))


class Buffers:
    """Buffers of up to one size."""

    def __init__(self, size_bytes: int, spare_max: int = SPARE_MAX) -> None:
        self._size_bytes = size_bytes
        self._spare: deque[memoryview] = deque(maxlen=spare_max)

    @property
    def spare(self) -> int:
        """Buffers that wait to be used again."""
        return len(self._spare)

    def take(self, size_bytes: int) -> memoryview:
        """Return memory of that size, with whatever was in it before."""
        if not ALLOCATED_BYTES_MAX < size_bytes <= self._size_bytes:
            return fresh(size_bytes)
        try:
            memory = self._spare.pop()  # the last one used: the likeliest to be in the processor's cache
        except IndexError:
            memory = page_aligned(self._size_bytes)
        array = np.frombuffer(memory, dtype=np.uint8)  # unlike a view it is held by each view of it, and by nobody else
        weakref.finalize(array, self._spare.append, memory).atexit = False
        return array.data[:size_bytes]
