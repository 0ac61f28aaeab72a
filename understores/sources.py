"""Reading the bytes of a put: from a descriptor or a binary file, in pieces, exactly as many as promised.

Invariant: `pieces` yields `size_bytes` in all or raises ShortBody; a descriptor's own position is not moved.
Blocks: iterate in a thread.
"""

import os
from collections.abc import Iterator
from typing import Final

from understores.base import Source
from understores.errors import ShortBody

PIECE_BYTES: Final = 1 << 20


def pieces(source: Source, size_bytes: int, *, start_bytes: int | None = None) -> Iterator[bytes]:
    """Yield `size_bytes` of `source`; `start_bytes` is where a file is rewound to first (a retried put)."""
    if not isinstance(source, int) and start_bytes is not None:
        source.seek(start_bytes)
    done = 0
    while done < size_bytes:
        wanted = min(PIECE_BYTES, size_bytes - done)
        piece = os.pread(source, wanted, done) if isinstance(source, int) else source.read(wanted)
        if not piece:
            raise ShortBody(f"the source ended after {done} bytes of the {size_bytes} promised.", retryable=False)
        done += len(piece)
        yield piece
