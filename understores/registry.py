"""Scheme → factory: the one place that knows which under stores exist.

A new store is one module with an `open_…` factory and its `OPTION_NAMES`, one line here, and the conformance
suite.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from understores import http, oss_settings, posix, s3, s3_settings, webhdfs, webhdfs_settings
from understores.base import UnderStore
from understores.credentials import SecretOptions
from understores.errors import InvalidMount
from understores.retrying import RetryingStore

Factory = Callable[[str, Mapping[str, str], SecretOptions], UnderStore]


@dataclass(frozen=True, slots=True)
class Scheme:
    """How to open one kind of mount, the option names it understands, and what all of its stores are like."""

    open: Factory
    option_names: frozenset[str]
    is_read_only: bool = False
    has_directories: bool = False
    """It lists empty directories; elsewhere they exist only while something is in them."""


def _open_oss(mount_point: str, options: Mapping[str, str], secrets: SecretOptions) -> UnderStore:
    # oss2 brings a lot along, which processes without an oss:// mount need not load.
    from understores.oss import open_oss

    return open_oss(mount_point, options, secrets)


SCHEMES: Final[dict[str, Scheme]] = {
    "file": Scheme(posix.open_posix, posix.OPTION_NAMES, has_directories=True),
    "hdfs": Scheme(webhdfs.open_webhdfs, webhdfs_settings.OPTION_NAMES, has_directories=True),
    "http": Scheme(http.open_http, http.OPTION_NAMES, is_read_only=True, has_directories=True),
    "https": Scheme(http.open_http, http.OPTION_NAMES, is_read_only=True, has_directories=True),
    "oss": Scheme(_open_oss, oss_settings.OPTION_NAMES),
    "s3": Scheme(s3.open_s3, s3_settings.OPTION_NAMES),
    "webhdfs": Scheme(webhdfs.open_webhdfs, webhdfs_settings.OPTION_NAMES, has_directories=True),
}
# Options shared by all mounts of a dataset reach each of them: one that another scheme knows is no mistake.
_KNOWN_OPTIONS: Final = frozenset[str]().union(*(scheme.option_names for scheme in SCHEMES.values()))


def open_store(mount_point: str, options: Mapping[str, str], secrets: SecretOptions) -> UnderStore:
    """Open the under store of a mount, with retries; does no I/O, the first request does.

    InvalidMount names the field that is wrong and what would be right.
    """
    parts = urlsplit(mount_point)
    if "@" in parts.netloc:
        raise InvalidMount(f"the {parts.scheme}:// mountPoint holds a user or password; give them by encryptOptions.")
    scheme = SCHEMES.get(parts.scheme)
    if scheme is None:
        accepted = ", ".join(f"{name}://" for name in sorted(SCHEMES))
        raise InvalidMount(f"mountPoint {mount_point!r} has no usable scheme; accepted are {accepted}.")
    for name in sorted({*options, *secrets.names} - _KNOWN_OPTIONS):
        raise InvalidMount(f"option {name!r} is not known; {mount_point} takes {_names(scheme) or 'no options'}.")
    return RetryingStore(scheme.open(mount_point, options, secrets), secrets=secrets)


def is_read_only(mount_point: str) -> bool:
    """Whether no store of the mount's scheme can be written."""
    scheme = SCHEMES.get(urlsplit(mount_point).scheme)
    return scheme is not None and scheme.is_read_only


def has_directories(mount_point: str) -> bool:
    """Whether stores of the mount's scheme have directories of their own, and list empty ones."""
    scheme = SCHEMES.get(urlsplit(mount_point).scheme)
    return scheme is not None and scheme.has_directories


def _names(scheme: Scheme) -> str:
    return ", ".join(sorted(scheme.option_names))
