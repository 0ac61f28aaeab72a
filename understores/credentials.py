"""Option values that are secret: read from files, never from arguments.

Owns reading `<namespace>/<secret>/<key>` files below one credentials folder, and noticing that they changed
(Kubernetes swaps a symbolic link; a stat sees another inode or mtime). Invariants: no path leaves the folder;
`repr` shows names, never values.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from understores.errors import AccessDenied, InvalidMount

VALUE_BYTES_MAX = 64 << 10
"""A Secret is at most 1 MiB; no key, token or certificate of one option comes near 64 KiB."""

Stamp: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Read:
    stamp: Stamp
    value: str


class SecretOptions:
    """Secret options of one mount: option name → file, re-read when the file changes."""

    def __init__(self, folder: Path | None = None, files: Mapping[str, str] | None = None) -> None:
        """`files` maps an option's name to a path below `folder`; InvalidMount when one leaves it."""
        self._folder = folder
        self._files = dict(files or {})
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
        return {name: self._value(name, file) for name, file in self._files.items()}

    def _value(self, name: str, file: str) -> str:
        assert self._folder is not None
        path = self._folder / file
        try:
            resolved = path.resolve(strict=True)
            if not resolved.is_relative_to(self._folder.resolve()):
                raise AccessDenied(f"the secret for option {name!r}, {file}, leads out of the credentials folder.")
            status = resolved.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._cache.get(name)
            if known is not None and known.stamp == stamp:
                return known.value
            value = _read_text(resolved)
        except (OSError, UnicodeDecodeError) as error:
            cause = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not UTF-8 text"
            raise AccessDenied(f"the secret for option {name!r}, {file}, cannot be read: {cause}.") from None
        self._cache[name] = _Read(stamp, value)
        return value


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(VALUE_BYTES_MAX).decode().strip()
