"""Reads the journal while another daemon writes it, so that little of it is left to read when that one dies.

Owns what was read so far. Waits on nothing but time: a journal that grows tells nobody.

Invariant: what it returns is what a replay of the whole journal gives.
"""

import asyncio
import os
from typing import Final

from fuse.core.journal import Image, replay

LOOK_SECONDS: Final = 0.5
"""Not at once either: whoever has just begun to serve needs the processor."""
NODES_MAX: Final = 100_000
"""It takes about 600 bytes a node, beside those of the daemon that serves; of a larger mount nothing is read ahead."""


class Follower:
    """One journal after the other."""

    def __init__(self) -> None:
        self._journal = -1
        self._image = Image()

    @property
    def followed_bytes(self) -> int:
        """How much of the journal was read so far."""
        return self._image.end

    def begin(self, journal: int) -> None:
        """Follow this one, whose descriptor is ours from now on."""
        self.end()
        self._journal = journal

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Read what was added."""
        if self._journal >= 0:
            self._read(self._journal)
            if len(self._image.nodes) > NODES_MAX:
                self.end()

    def _read(self, journal: int) -> None:
        added_bytes = os.fstat(journal).st_size - self._image.end
        if added_bytes > 0:
            replay(os.pread(journal, added_bytes, self._image.end), self._image)

    def image(self, journal: int) -> Image:
        """Return the state at the end of this journal, and follow no more."""
        if self._journal < 0 or not os.path.samestat(os.fstat(journal), os.fstat(self._journal)):
            self._image = Image()
        self._read(journal)
        image = self._image
        self.end()
        return image

    def end(self) -> None:
        """Let go of what is followed."""
        if self._journal >= 0:
            os.close(self._journal)
        self._journal, self._image = -1, Image()
