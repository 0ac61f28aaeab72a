"""Keys as paths, and the levels of directories they name. Pure."""

from typing import Final

from understores.errors import InvalidKey

LEVELS_MAX: Final = 16
"""Directory levels looked at for one place to cut a listing."""


def checked_key(key: str) -> str:
    """Return the key; InvalidKey unless it is a relative path of real names."""
    if not key or any(name in ("", ".", "..") for name in key.split("/")):
        raise InvalidKey(f"{key!r} is not a key: names may not be empty, '.' or '..'.")
    return key


def levels_to_cut(after: str, until: str) -> list[str]:
    """Directories, each with its slash ("" is the root), in which places to cut between the two keys may lie.

    The highest first; at most LEVELS_MAX. "" as `until` is the end of the store.
    """
    levels = ["", *(after[: index + 1] for index, letter in enumerate(after) if letter == "/")]
    # Above the directory that both are in there is nothing between them.
    first = max(index for index, level in enumerate(levels) if until.startswith(level)) if until else 0
    return levels[first : first + LEVELS_MAX]
