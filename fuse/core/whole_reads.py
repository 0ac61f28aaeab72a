"""Whether an open waits for the whole file to be here, so that the kernel reads it past us.

Owns what is known of each dataset's readers and of how fast its files come. Pure: told of times, has no clock.

Bytes that are missing reach a reader through the daemon and one more copy of every page. A file that is whole when it
is opened does not, and takes a third of the processor time. So an open waits where that costs little and is likely to
be of use: the last file of the dataset that was looked at was read from its beginning to its end, and files came fast
enough lately that this one will be here in WAIT_SECONDS. Where they come faster than FAST it is the way through the
daemon that a reader would wait for, and so an open waits up to FAST_WAIT_SECONDS, for as long as its own file does come
that fast. Of every LOOK_EVERY opens one does not wait, to see how files are read.
"""

from collections import OrderedDict
from typing import Final

WAIT_SECONDS: Final = 1.0
"""At most. Nothing is lost but the reader's own work meanwhile: the bytes come either way."""
FAST: Final = 128 << 20
"""Bytes/s. A reader of a cold file through the daemon got little more, where the file itself came twice as fast."""
FAST_WAIT_SECONDS: Final = 4.0
FIRST_RATE: Final = 256 << 20
"""Bytes/s taken for granted of a dataset of which no file was waited for yet, or not for a while."""
FORGET_SECONDS: Final = 60.0
"""A store that was slow so long ago may be faster by now."""
LOOK_EVERY: Final = 16
DATASETS_MAX: Final = 1000


class _Habits:
    """Of one dataset."""

    __slots__ = ("are_whole", "bytes_per_second", "measured_at", "waits")

    def __init__(self) -> None:
        self.are_whole = False
        self.waits = 0
        self.bytes_per_second = 0.0
        self.measured_at = 0.0


class WholeReads:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._datasets: OrderedDict[str, _Habits] = OrderedDict()

    def was_read(self, uid: str, *, whole: bool) -> None:
        """A file that came while it was read was closed; `whole`: read in order, up to its end."""
        self._of(uid).are_whole = whole

    def wait_seconds(self, uid: str, size_bytes: int, now: float) -> float:
        """How long an open of a file that is not whole may wait at first; 0 = not at all."""
        habits = self._datasets.get(uid)
        if habits is None or not habits.are_whole:
            return 0.0
        if not habits.bytes_per_second or now - habits.measured_at > FORGET_SECONDS:
            habits.bytes_per_second = FIRST_RATE
        if size_bytes / habits.bytes_per_second > _wait_seconds_max(habits.bytes_per_second):
            return 0.0
        habits.waits += 1
        return WAIT_SECONDS if habits.waits % LOOK_EVERY else 0.0

    @staticmethod
    def more_seconds(size_bytes: int, came_bytes: int, waited_seconds: float) -> float:
        """How much longer an open may wait of whose file so much came in the time it has waited; 0 = not at all."""
        rate = came_bytes / max(waited_seconds, 1e-6)
        limit = _wait_seconds_max(rate)
        if not came_bytes or size_bytes / rate > limit:
            return 0.0
        return max(0.0, min(WAIT_SECONDS, limit - waited_seconds))

    def came(self, uid: str, size_bytes: int, seconds: float, now: float) -> None:
        """So many bytes of a file came in the time an open waited."""
        habits = self._of(uid)
        habits.bytes_per_second = max(1.0, size_bytes / max(seconds, 1e-6))
        habits.measured_at = now

    def _of(self, uid: str) -> _Habits:
        habits = self._datasets.setdefault(uid, _Habits())
        self._datasets.move_to_end(uid)
        if len(self._datasets) > DATASETS_MAX:
            self._datasets.popitem(last=False)
        return habits


def _wait_seconds_max(bytes_per_second: float) -> float:
    return FAST_WAIT_SECONDS if bytes_per_second >= FAST else WAIT_SECONDS
