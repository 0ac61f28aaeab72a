"""A map-style data set over the files of a dataset's directory, as torch's DataLoader takes one.

Owns the list of files, which is that of one snapshot, and the order of an epoch. Knows nothing of torch.
"""

import fnmatch
import random
from collections.abc import Callable, Sequence
from typing import Any

import fsspec

from headrace_sdk.filesystem import HeadraceFileSystem


class FileDataset:
    """`len`, and `[index]` → `transform(bytes)` of the file. May be pickled and forked.

    >>> data = FileDataset("headrace://team-a/imagenet/train", pattern="*.jpg", transform=decode)
    >>> order = data.order(seed=7, epoch=3, rank=0, ranks=8)
    >>> data.declare(order)  # the worker fetches ahead in this order
    >>> loader = torch.utils.data.DataLoader(data, sampler=order)
    """

    def __init__(
        self,
        url: str,
        *,
        pattern: str = "*",
        transform: Callable[[bytes], Any] | None = None,
        socket: str | None = None,
        tokens: str | None = None,
    ) -> None:
        """List the files below `url` whose names match `pattern` (of fnmatch). FileNotFoundError; ValueError when no
        file matches."""
        self._fs: HeadraceFileSystem = fsspec.filesystem("headrace", socket=socket, tokens=tokens)
        self._transform = transform
        found: dict[str, Any] = self._fs.find(url, detail=True)
        self.files: list[str] = sorted(name for name in found if fnmatch.fnmatch(name.rpartition("/")[2], pattern))
        if not self.files:
            raise ValueError(f"no file below {url} matches {pattern!r}")

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        data = self._fs.cat_file(self.files[index])
        return data if self._transform is None else self._transform(data)

    def order(self, *, seed: int, epoch: int, rank: int = 0, ranks: int = 1) -> list[int]:
        """Return this rank's indices of an epoch: a shuffle that every rank computes alike, dealt out in turns. All
        ranks get as many; the first indices fill the last turn, as torch's DistributedSampler has it."""
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} must be from 0 to below ranks, which is {ranks}")
        indices = list(range(len(self)))
        random.Random(f"{seed}/{epoch}").shuffle(indices)
        turns = -(-len(indices) // ranks)
        padded = (indices * -(-turns * ranks // len(indices)))[: turns * ranks]
        return padded[rank::ranks]

    def declare(self, order: Sequence[int]) -> None:
        """Tell the node's worker that the files of these indices will be read in this order, by this process or its
        loaders; what a sampler of any kind yields will do. Replaces the order declared before."""
        self._fs.declare([self.files[index] for index in order])

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._fs, self._transform, self.files)


def _again(fs: HeadraceFileSystem, transform: Callable[[bytes], Any] | None, files: list[str]) -> FileDataset:
    made = FileDataset.__new__(FileDataset)
    made._fs, made._transform, made.files = fs, transform, files
    return made
