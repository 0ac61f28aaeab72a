"""CRC32C of any buffer.

google_crc32c takes only buffers without a release hook, so not bytearray or memoryview; an array over the same
memory is one, which saves copying every block.
"""

from typing import cast

import google_crc32c
import numpy as np


def crc32c(data: bytes | bytearray | memoryview, start: int = 0) -> int:
    """Return the CRC32C of `data`, continuing from `start`, the value of the bytes before it."""
    if len(data) == 0:
        return start
    return cast(int, google_crc32c.extend(start, np.frombuffer(data, dtype=np.uint8)))
