"""Memory of processes over time, and whether it grows.

Owns the samples and the judgement. What is counted is RssAnon: mapped files and page cache are the kernel's to take
back.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WARM_SHARE: Final = 0.3
"""Of the time, in which caches may fill."""
FLAT_SHARE: Final = 0.05
FLAT_BYTES: Final = 4 << 20
"""Growth over the rest that is still called flat: this, or the share above if that is more."""
PAIRS_FROM: Final = 200
"""Samples whose pairs are compared; of more, so many spread evenly."""

Sample = tuple[float, int]
"""Seconds, bytes."""


@dataclass(frozen=True)
class Growth:
    """What a process did after it was warm."""

    median_bytes: float
    grown_bytes: float
    """By the median slope, over the whole of the time after warming up."""

    @property
    def is_flat(self) -> bool:
        """Whether that is no growth."""
        return self.grown_bytes <= max(FLAT_BYTES, FLAT_SHARE * self.median_bytes)


def growth(samples: Sequence[Sample]) -> Growth:
    """Return the growth by the median of the slopes between any two samples (Theil and Sen): peaks do not count."""
    first, last = samples[0][0], samples[-1][0]
    warm = [each for each in samples if each[0] >= first + WARM_SHARE * (last - first)]
    step = max(1, len(warm) // PAIRS_FROM)
    pairs = itertools.combinations(warm[::step], 2)
    slope = statistics.median((b[1] - a[1]) / (b[0] - a[0]) for a, b in pairs if b[0] > a[0])
    return Growth(statistics.median(size for _, size in warm), slope * (warm[-1][0] - warm[0][0]))


def anonymous_bytes(process: int) -> int:
    """Return the RssAnon of a process; FileNotFoundError when it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"process {process} has no memory: it is a zombie")


def watch(
    processes: Mapping[str, int], seconds: float, every_seconds: float, *, goes_on: Callable[[], bool]
) -> dict[str, list[Sample]]:
    """Return samples of processes by name, for so long, or while `goes_on` says so."""
    samples: dict[str, list[Sample]] = {name: [] for name in processes}
    began = time.monotonic()
    while (now := time.monotonic() - began) < seconds and goes_on():
        for name, process in processes.items():
            samples[name].append((now, anonymous_bytes(process)))
        time.sleep(every_seconds)
    return samples
