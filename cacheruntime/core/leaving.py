"""What a worker that leaves hands over to whom: the hottest files first, each block to the homes it has without us.

Owns the order and the targets. Does not move bytes. Invariant: only blocks of which we are a home are handed over: of a
copy, its home has the block.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from cacheruntime.core.homes import eligible, homes_of


@dataclass(frozen=True, slots=True)
class Held:
    """A file here, as handing over sees it."""

    name: str
    uid: str
    path: str
    uses: float
    """How often it was opened, older times counting less."""
    last_used_seconds: float
    is_pinned: bool = False


def hottest_first(files: Iterable[Held]) -> list[Held]:
    """Return the files in the order in which they go: what is pinned, then what was used most, then what was last."""
    return sorted(files, key=lambda file: (not file.is_pinned, -file.uses, -file.last_used_seconds, file.name))


def targets(
    file: Held, blocks: Iterable[int], *, me: str, staying: Iterable[str], allowed: Sequence[str], replicas: int
) -> Iterator[tuple[int, str]]:
    """Yield each block of ours with each node that becomes its home when we are gone."""
    after = eligible(staying, allowed)
    if not after or (allowed and me not in allowed):
        return
    before = eligible((*after, me), allowed)
    for block in blocks:
        homes = homes_of(file.uid, file.path, block, before, replicas)
        if me not in homes:
            continue
        yield from (
            (block, node) for node in homes_of(file.uid, file.path, block, after, replicas) if node not in homes
        )
