"""Which datasets changed since when: what lets a list that is asked for again and again cost no more than what changed.

Owns an order of changes, newest last, one place a dataset. Pure; soft state of one process. Invariants: a change that
is marked after a token was made is told to who shows that token; who shows one of another process, or one older than
what is remembered, is told that it is not known, never that nothing changed.
"""

from typing import Final

REMEMBERED_MAX: Final = 100_000
"""Datasets, removed ones too, of which the last change is remembered."""


class Revisions:
    """The order of changes. One event loop."""

    def __init__(self, process: str, *, remembered_max: int = REMEMBERED_MAX) -> None:
        """`process` tells this one from all before it."""
        self._process = process
        self._remembered_max = remembered_max
        self._revision = 0
        self._forgotten = 0
        """Of changes up to this one some are not remembered."""
        self._changed: dict[str, int] = {}
        """The revision of each dataset's last change, oldest first."""

    @property
    def token(self) -> str:
        """Stands for all that is marked by now."""
        return f"{self._process}.{self._revision}"

    def mark(self, uid: str) -> None:
        """A dataset may look different from now on, or is there no more."""
        self._revision += 1
        self._changed.pop(uid, None)
        self._changed[uid] = self._revision
        if len(self._changed) > self._remembered_max:
            oldest = next(iter(self._changed))
            self._forgotten = self._changed.pop(oldest)

    def since(self, token: str) -> list[str] | None:
        """Return the uids marked since a token was made, the newest first; None: it is not known, or no more."""
        process, _, number = token.rpartition(".")
        if process != self._process or not (number.isascii() and number.isdecimal()):
            return None
        revision = int(number)
        if not self._forgotten <= revision <= self._revision:
            return None
        found = []
        for uid, changed in reversed(self._changed.items()):
            if changed <= revision:
                break
            found.append(uid)
        return found
