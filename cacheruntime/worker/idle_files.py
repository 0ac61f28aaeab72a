"""Descriptors of files that nobody holds, kept open for the next reader of a few bytes.

Owns which stay open: the most lately used, up to a number. A held file is never here. Invariant: a file that leaves
the index leaves here too and is closed, so that its room comes back from the file system at once.
"""

from collections import OrderedDict

from cacheruntime.worker import tier_files
from cacheruntime.worker.tier_files import CachedFile


class IdleFiles:
    """The least lately used are closed first."""

    def __init__(self, files_max: int) -> None:
        """`files_max` is at least 1."""
        self._files_max = files_max
        self._files: OrderedDict[CachedFile, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._files)

    def keep(self, file: CachedFile) -> None:
        """The last holder let the file go."""
        tier_files.close_map(file)  # only writers use it
        self._files[file] = None
        if len(self._files) > self._files_max:
            oldest, _ = self._files.popitem(last=False)
            tier_files.close_file(oldest)

    def use(self, file: CachedFile) -> None:
        """The file was used without being held; no error when it is not here."""
        if file in self._files:
            self._files.move_to_end(file)

    def take(self, file: CachedFile) -> None:
        """Somebody holds the file, or it leaves; what is open of it is now the caller's to close."""
        self._files.pop(file, None)

    def close(self) -> None:
        """Close all."""
        while self._files:
            tier_files.close_file(self._files.popitem()[0])
