"""Option values that are secret: read from files, never from arguments.

Owns reading `<namespace>/<secret>/<key>` files below one credentials folder (or, in a mounted Secret of copies, the
files that `api.credentials.credential_key` names), and noticing that they changed
(Kubernetes swaps a symbolic link; a stat sees another inode or mtime). Invariants: no path leaves the folder;
`repr` shows names, never values; what `values` returns was in the files together, unless they are written one by one.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from api.credentials import credential_key
from understores.errors import AccessDenied, InvalidMount

VALUE_BYTES_MAX = 64 << 10
"""A Secret is at most 1 MiB; no key, token or certificate of one option comes near 64 KiB."""

# Kubernetes removes a Secret's old files right after the swap: whoever resolved the link before looks once more.
_SWAP_TRIES: Final = 4

Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: Stamp
    value: str


class SecretOptions:
    """Secret options of one mount: option name → file, re-read when the file changes."""

    def __init__(
        self,
        folder: Path | None = None,
        files: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`files` maps an option's name to a path below `folder`; InvalidMount when one leaves it."""
        self._folder = folder
        self._files = dict(files or {})
        self._clock = clock
        self._changed_at_seconds = float("-inf")
        self._reads = 0
        self.changes = 0
        """How often a value was found to be another one than before."""
        self._cache: dict[str, _Read] = {}
        for name, file in self._files.items():
            if folder is None:
                raise InvalidMount(f"secret option {name!r} needs a credentials folder, and none is configured.")
            if not file or file.startswith("/") or any(part in ("", ".", "..") for part in file.split("/")):
                raise InvalidMount(
                    f"secret option {name!r} names the file {file!r}; "
                    "it must be <namespace>/<secret>/<key> below the credentials folder."
                )

    def __repr__(self) -> str:
        return f"SecretOptions({', '.join(sorted(self._files))})"

    @property
    def names(self) -> frozenset[str]:
        """Names of the options that come from files."""
        return frozenset(self._files)

    def values(self) -> dict[str, str]:
        """Return every option's current value, without surrounding white space.

        Stats each file and reads those that changed: microseconds on a local disk. AccessDenied when a file
        is missing or unreadable, so that the mount's owner learns which one.
        """
        for _ in range(_SWAP_TRIES):
            reads_before = self._reads
            values = {name: self._value(name, file) for name, file in self._files.items()}
            if self._reads == reads_before:
                break
            # Something is new: a swap between two files would pair the id of one key with the secret of another.
        return values

    def is_settling(self, seconds: float) -> bool:
        """Whether a value changed within the last `seconds`; files written one by one may not be of one key yet."""
        return self._clock() - self._changed_at_seconds < seconds

    def refresh(self) -> None:
        """Notice a change without using the values; no error when a file cannot be read."""
        with suppress(AccessDenied):
            self.values()

    def _value(self, name: str, file: str) -> str:
        for tries_left in reversed(range(_SWAP_TRIES)):
            try:
                return self._value_now(name, file)
            except (OSError, UnicodeDecodeError) as error:
                if not isinstance(error, FileNotFoundError) or not tries_left:
                    cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not UTF-8 text"
                    raise AccessDenied(f"the secret for option {name!r}, {file}, cannot be read: {cause}.") from None
        raise AssertionError("the last try returns or raises")

    @staticmethod
    def _find(folder: Path, file: str) -> Path:
        """Return the real path; FileNotFoundError."""
        try:
            return (folder / file).resolve(strict=True)
        except FileNotFoundError:
            return (folder / credential_key(file)).resolve(strict=True)

    def _value_now(self, name: str, file: str) -> str:
        assert self._folder is not None
        resolved = self._find(self._folder, file)
        if not resolved.is_relative_to(self._folder.resolve()):
            raise AccessDenied(f"the secret for option {name!r}, {file}, leads out of the credentials folder.")
        status = resolved.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._cache.get(name)
        if known is not None and known.stamp == stamp:
            return known.value
        value = _read_text(resolved)
        self._reads += 1
        self._cache[name] = _Read(stamp, value)
        if known is not None and known.value != value:
            self.changes += 1
            self._changed_at_seconds = self._clock()
        return value


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(VALUE_BYTES_MAX).decode().strip()
