"""Sets of pod indexes as people write them: `0-3,6`.

Owns the two translations. Invariant: parse(text(x)) is x, for any set of natural numbers."""

from __future__ import annotations

from collections.abc import Iterable


def text(indexes: Iterable[int]) -> str:
    """Return the set in runs, ascending; "" for none."""
    runs: list[list[int]] = []
    for index in sorted(set(indexes)):
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse(written: str) -> frozenset[int]:
    """Return the set `text` wrote. Raises ValueError for anything else."""
    found: set[int] = set()
    for run in written.split(",") if written else ():
        first, _, last = run.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)
