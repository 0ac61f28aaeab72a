"""A key space cut into ranges that are listed side by side.

Owns which range is listed next, which one is worth cutting, and how far each has come. Does no request: the shell
asks, and reports pages. Invariants: the ranges are adjacent and cover every key, so that each key is taken exactly
once whatever is cut and in whatever order pages come; what `left` gives is all that has not been taken yet.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import lt
from typing import Final

from metadata.core.entries import FILE_BYTES_MAX
from understores.base import ObjectInfo
from understores.errors import StoreFailed

PAGES_BEFORE_CUTTING: Final = 2
"""A store that ends sooner is not worth the request that looks for places to cut."""
PAGES_BEFORE_CUTTING_AGAIN: Final = 4
"""Of a part: towards the end all parts are small, and idle requests would do nothing but look."""


@dataclass(slots=True, eq=False)
class KeyRange:
    """Keys that sort after `after`, up to and with `until` ("" = to the end of the store)."""

    after: str
    until: str
    pages: int = 0
    cut_at_pages: int = PAGES_BEFORE_CUTTING
    """It may be cut once it has given so many pages."""


class ListingRanges:
    """The ranges of one mount's listing."""

    def __init__(self, left: Iterable[tuple[str, str]] = (("", ""),)) -> None:
        """Begin with the ranges that an earlier listing left, or with one of all keys."""
        self._waiting = [KeyRange(after, until) for after, until in left]
        self._running: list[KeyRange] = []

    @property
    def is_done(self) -> bool:
        """Whether every key was taken."""
        return not self._waiting and not self._running

    @property
    def open(self) -> int:
        """How many ranges are not finished."""
        return len(self._waiting) + len(self._running)

    @property
    def left(self) -> list[tuple[str, str]]:
        """(after, until) of what has not been taken, for a listing that goes on here."""
        return sorted((keys.after, keys.until) for keys in (*self._waiting, *self._running))

    def claim(self) -> KeyRange | None:
        """The next range to list, or None while all are being listed."""
        if not self._waiting:
            return None
        keys = self._waiting.pop(0)
        self._running.append(keys)
        return keys

    def take(self, keys: KeyRange, page: Sequence[ObjectInfo]) -> Sequence[ObjectInfo]:
        """The objects of a page that are the range's; the range begins behind them from now on.

        StoreFailed when the page is not in key order: ranges would lose objects without anybody noticing; and when it
        has impossible sizes.
        """
        names = [info.key for info in page]
        if not 0 <= min(sizes := [info.size_bytes for info in page]) <= max(sizes) <= FILE_BYTES_MAX:
            raise StoreFailed("the store lists an object with a size that no object has.")
        if names[0] <= keys.after or not all(map(lt, names, names[1:])):
            raise StoreFailed("the store does not list its keys in order, which a listing in parts needs.")
        keys.pages += 1
        if keys.until and names[-1] > keys.until:
            # At most one page a range is read beyond its end.
            page = [info for info in page if info.key <= keys.until]
        if page:
            keys.after = page[-1].key
        if keys.until and names[-1] >= keys.until:
            self.finish(keys)
        return page

    def finish(self, keys: KeyRange) -> None:
        """The range has no more keys; no error when it was finished before."""
        if keys in self._running:
            self._running.remove(keys)

    def is_running(self, keys: KeyRange) -> bool:
        """Whether the range is claimed and not finished."""
        return keys in self._running

    def worth_cutting(self) -> KeyRange | None:
        """The range that an idle request should help with: the one that has given most pages and is not done.

        Until `cut` is told what was found, it is not named again.
        """
        able = [keys for keys in self._running if keys.pages >= keys.cut_at_pages]
        if not able:
            return None
        keys = max(able, key=lambda one: one.pages)
        # Where nothing was found the next look comes at twice the pages: a flat directory costs few of them.
        keys.cut_at_pages = keys.pages * 2 + 1
        return keys

    def cut(self, keys: KeyRange, points: Iterable[str], pieces: int) -> int:
        """Cut what is left of the range at some of `points`, into at most `pieces`; returns how many are new.

        Points outside what is left are ignored: the range was listed on while they were looked for.
        """
        if pieces < 2 or keys not in self._running:
            return 0
        inside = sorted({one for one in points if keys.after < one and (not keys.until or one < keys.until)})
        chosen = _spread(inside, pieces - 1)
        if not chosen:
            return 0
        ends = [*chosen[1:], keys.until]
        self._waiting.extend(
            KeyRange(after, until, cut_at_pages=PAGES_BEFORE_CUTTING_AGAIN)
            for after, until in zip(chosen, ends, strict=True)
        )
        keys.until = chosen[0]
        keys.pages, keys.cut_at_pages = 0, PAGES_BEFORE_CUTTING_AGAIN
        return len(chosen)


def _spread(points: Sequence[str], wanted: int) -> list[str]:
    """At most `wanted` of the points, evenly apart."""
    if len(points) <= wanted:
        return list(points)
    return [points[len(points) * number // (wanted + 1)] for number in range(1, wanted + 1)]
