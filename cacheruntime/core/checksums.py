"""CRC32C of any buffer.

google_crc32c takes only buffers without a release hook, so not bytearray or memoryview; an array over the same
memory is one, which saves copying every block.
"""

from typing import Final, cast

import google_crc32c
import numpy as np

_COPIED_BYTES_MAX: Final = 32 << 10


def crc32c(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """Return the CRC32C of `data`, continuing from `start`, the value of the bytes before it."""
    if len(data) <= _COPIED_BYTES_MAX:
        # Copying so little costs less than making an array of it.
        return cast(int, google_crc32c.extend(start, bytes(data))) if len(data) else start
    return cast(int, google_crc32c.extend(start, np.frombuffer(data, dtype=np.uint8)))
