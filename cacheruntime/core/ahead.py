"""Which bytes of a file that is being written may be sent to its under store before it is closed.

Owns the rule, not the sending (worker/ahead_upload.py). Pure. Most checkpoints are written from front to back, so what
has been written once is taken to stay; whoever sends must look again at the end, because nothing promises that.
"""

from dataclasses import dataclass
from typing import Final

PIECE_BYTES: Final = 16 << 20
"""What is sent, and looked at again, as one, where the store does not say: a part of an S3 upload."""
FIRST_PIECES: Final = 2
"""Smaller files are sent at once when they are closed: beginning early would gain nothing."""
FILE_BYTES_MAX: Final = 8_900 * PIECE_BYTES
"""S3 allows 10,000 parts, understores/s3.py makes 9,000."""


@dataclass(frozen=True, slots=True)
class Written:
    """A staging file as it is now."""

    size_bytes: int
    allocated_bytes: int


def whole_pieces(file: Written, sent: int, *, piece_bytes: int = PIECE_BYTES) -> int | None:
    """How many pieces may have been sent by now, of which `sent` have been; None: give up.

    The piece that is being written is not among them. A file with holes of a piece or more was given its size first and
    is being filled in some other order.
    """
    if file.size_bytes < sent * piece_bytes or file.size_bytes > FILE_BYTES_MAX:
        return None
    if file.size_bytes - file.allocated_bytes > piece_bytes:
        return sent
    whole = file.size_bytes // piece_bytes
    return whole if whole >= FIRST_PIECES else 0
