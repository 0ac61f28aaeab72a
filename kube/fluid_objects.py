"""What is read of Fluid's objects (data.fluid.io/v1alpha1).

Owns the fields. Where Fluid's Dataset says sizes it says them as text for people ("1.50GiB", "[Calculating]").
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from kube.identity import JsonObject, Object, ObjectMeta

_SIZE: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(B|KiB|MiB|GiB|TiB|PiB)\s*")
_UNITS: Final = {unit: 1 << (10 * power) for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB", "PiB"))}


class FluidDatasetStatus(Object, frozen=True):
    """Phase and totals; `cache_states` has keys as "cached" and "cachedPercentage"."""

    phase: str = ""
    ufs_total: str | None = None
    file_num: str | None = None
    cache_states: JsonObject = msgspec.field(default_factory=dict)


class FluidDataset(Object, frozen=True):
    """A Dataset of Fluid's."""

    metadata: ObjectMeta = msgspec.field(default_factory=ObjectMeta)
    status: FluidDatasetStatus = msgspec.field(default_factory=FluidDatasetStatus)

    @property
    def size_bytes(self) -> int | None:
        """Bytes of all its files, to the two decimals Fluid tells; None while it counts them."""
        return size_bytes(self.status.ufs_total)

    @property
    def cached_bytes(self) -> int:
        """Bytes its workers hold, copies included; 0 when it does not say."""
        text = self.status.cache_states.get("cached")
        return (size_bytes(text) if isinstance(text, str) else None) or 0


def size_bytes(text: str | None) -> int | None:
    """Return the bytes of a size as Fluid writes it; None for what is no size."""
    found = _SIZE.fullmatch(text or "")
    return None if found is None else round(float(found[1]) * _UNITS[found[2]])
