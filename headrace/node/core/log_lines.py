"""Stored log lines: `<time> <stream> <F or P> <text>`, as container runtimes write them.

Owns parsing and choosing lines for `kubectl logs`. Does not read files. Invariant: a line
that cannot be parsed is passed on as it is, so nothing of a log is hidden."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from api.conditions import parse_timestamp


@dataclass(frozen=True, slots=True)
class LogOptions:
    """What of a log is asked for; None means no limit."""

    timestamps: bool = False
    tail_lines: int | None = None
    since: float | None = None  # seconds since 1970
    limit_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One stored line; `text` has its line end unless it is a part of a longer one."""

    stamp: str
    text: bytes

    def shown(self, options: LogOptions) -> bytes:
        """Return the bytes to send."""
        return self.stamp.encode() + b" " + self.text if options.timestamps and self.stamp else self.text


def parse(raw: bytes) -> LogLine:
    """Return one stored line (with or without its end)."""
    raw = raw.removesuffix(b"\n")
    parts = raw.split(b" ", 3)
    if len(parts) != 4 or parts[2] not in (b"F", b"P"):
        return LogLine("", raw + b"\n")
    end = b"\n" if parts[2] == b"F" else b""
    return LogLine(parts[0].decode("ascii", errors="replace"), parts[3] + end)


def is_wanted(line: LogLine, options: LogOptions) -> bool:
    """True when the line is not older than asked for."""
    if options.since is None or not line.stamp:
        return True
    # Python reads microseconds; the rest of the nanoseconds is cut.
    return parse_timestamp(line.stamp[:26].rstrip("Z") + "Z") >= options.since


def choose(raw_lines: Iterable[bytes], options: LogOptions) -> Iterator[LogLine]:
    """Yield the wanted lines among those stored so far."""
    lines = [line for raw in raw_lines if is_wanted(line := parse(raw), options)]
    if options.tail_lines is not None:
        lines = lines[-options.tail_lines :] if options.tail_lines > 0 else []
    yield from lines
