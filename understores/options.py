"""Reading a mount's options: several spellings of one name, endpoints, flags.

Owns what every store checks alike. Invariant: a message names the option and what would be right, and never shows
a URL that holds a password.
"""

from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from understores.errors import InvalidMount

Spellings = Mapping[str, tuple[str, ...]]
_TRUE_OR_FALSE: Final = ("", "true", "false")


def spelled(prefix: str, *names: str) -> dict[str, tuple[str, ...]]:
    """Each name as it is and with `prefix` before it, as JindoFS and Hadoop write options."""
    return {name: (name, f"{prefix}{name}") for name in names}


def all_names(spellings: Spellings) -> frozenset[str]:
    """Every spelling of every option."""
    return frozenset(name for one in spellings.values() for name in one)


def option(options: Mapping[str, str], spellings: Iterable[str]) -> str:
    """The first spelling's value that is not blank, or ""."""
    for spelling in spellings:
        if value := options.get(spelling, "").strip():
            return value
    return ""


def checked_endpoint(endpoint: str, *, name: str = "endpoint", default_scheme: str = "https") -> str:
    """`endpoint` as a URL without a slash at its end; InvalidMount names the option."""
    url = endpoint if "://" in endpoint else f"{default_scheme}://{endpoint}"
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or "@" in url or "?" in url or "#" in url:
        raise InvalidMount(f"option {name!r} is {shown(endpoint)}; write http://host:port or https://host.")
    return url.rstrip("/")


def shown(url: str) -> str:
    """`url` for a message."""
    # user:password@host is the one way a secret gets into a URL's host.
    return "a URL with user and password" if "@" in url else repr(url)


def flag(name: str, value: str) -> bool:
    """Whether `value` is "true"; InvalidMount unless it is that, "false" or ""."""
    if value.lower() not in _TRUE_OR_FALSE:
        raise InvalidMount(f"option {name!r} is {value!r}; it must be true or false.")
    return value.lower() == "true"


def checked_prefix(mount_point: str, path: str) -> str:
    """The unquoted path of a bucket's mount as a prefix: "" or with one slash at its end; InvalidMount."""
    prefix = path.strip("/")
    if prefix and any(name in ("", ".", "..") for name in prefix.split("/")):
        raise InvalidMount(f"mountPoint {mount_point!r} has an empty, '.' or '..' name in its prefix.")
    return f"{prefix}/" if prefix else ""
