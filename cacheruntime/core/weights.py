"""Which files are read like weights, so that all of one is fetched at its first reads.

Owns the rule only. Loaders of weights map a file and touch it tensor by tensor, by name or backwards: each
touch would wait for a block of its own, one after the other, and each page of them passes the daemon. What has the name
of weights is taken for that from its first read on; any other file after JUMPS reads that went neither on nor to what
was asked for ahead of the reader. A look at a footer and back is two, and no reason to fetch the rest.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

NAMES: Final = (".safetensors", ".pt", ".pth", ".ckpt", ".gguf")
JUMPS: Final = 3
BACK_BLOCKS: Final = 9
"""The mount asks for up to eight blocks ahead of a reader, who then comes for those before them."""
ON_BLOCKS: Final = 2
FILES_MAX: Final = 4096
"""Whose reads are remembered, the last read ones."""


@dataclass(slots=True)
class _Reads:
    expected: int = 0
    jumps: int = 0


class WeightLike:
    """How files are being read, by any name of theirs."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, _Reads] = OrderedDict()

    def read(self, name: str, path: str, first_block: int, last_block: int) -> bool:
        """Note a read; whether all of the file had better be fetched."""
        if path.endswith(NAMES):
            return True
        reads = self._files.get(name)
        if reads is None:
            reads = self._files[name] = _Reads()
            if len(self._files) > FILES_MAX:
                self._files.popitem(last=False)
        self._files.move_to_end(name)
        if -BACK_BLOCKS <= first_block - reads.expected <= ON_BLOCKS:
            reads.expected = max(reads.expected, last_block + 1)
        else:
            reads.expected = last_block + 1
            reads.jumps += 1
        return reads.jumps >= JUMPS

    def forget(self, name: str) -> None:
        """The file is whole."""
        self._files.pop(name, None)
