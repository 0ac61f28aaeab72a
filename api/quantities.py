"""Kubernetes quantities to integers and back, and durations as our specs have them.

Owns the grammar of `k8s.io/apimachinery/pkg/api/resource`. Rounds up, as kube-scheduler's `Value()` and
`MilliValue()` do, and caps amounts at 2^63 - 1 as the API server does. Raises ValueError with the offending text.
"""

import re
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

_PATTERN = re.compile(r"^([+-]?[0-9]+(?:\.[0-9]*)?|[+-]?\.[0-9]+)([eE][+-]?[0-9]+|[KMGTPE]i|[numkMGTPE])?$")
_SUFFIXES = {
    "": Decimal(1),
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    **{letter: Decimal(1000) ** power for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)},
}
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MOST = Decimal((1 << 63) - 1)
# Beyond any exponent that could matter, and within what Decimal computes.
_MAX_EXPONENT = 10_000


@lru_cache(maxsize=8192)
def parse(text: str | int | float) -> Decimal:
    """Return a quantity such as `4Gi`, `100m` or `1e3`, exact up to the cap; ValueError when it is none."""
    match = _PATTERN.match(str(text))
    if match is None:
        raise ValueError(f"{text!r} is not a quantity; write it like 500m, 4 or 16Gi")
    number, suffix = match.group(1), match.group(2) or ""
    scale = _SUFFIXES.get(suffix)
    if scale is None:
        scale = Decimal(10) ** max(-_MAX_EXPONENT, min(_MAX_EXPONENT, int(suffix[1:])))
    return max(-_MOST, min(_MOST, Decimal(number) * scale))


@lru_cache(maxsize=8192)
def to_int(text: str | int | float) -> int:
    """Return a quantity in whole units (bytes, GPUs, pods), rounded up."""
    return int(parse(text).to_integral_value(rounding=ROUND_CEILING))


@lru_cache(maxsize=8192)
def to_milli(text: str | int | float) -> int:
    """Return a quantity in thousandths (millicores), rounded up."""
    return int((parse(text) * 1000).to_integral_value(rounding=ROUND_CEILING))


def duration_seconds(text: str) -> int:
    """Return the seconds of a duration such as `90s`, `10m` or `1h30m`; ValueError when it is none."""
    if re.fullmatch(r"([0-9]+[smh])+", text, re.ASCII) is None:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 10m or 1h30m")
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smh])", text))


def format_bytes(size_bytes: int) -> str:
    """Return bytes for people: `512 B`, `1.5 MiB`, `20.0 GiB`."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024:
            break
        value, unit = value / 1024, larger
    return f"{int(value)} B" if unit == "B" else f"{value:.1f} {unit}"
