"""Format name → factory. A new format is one module here, one line, one test."""

from collections.abc import Callable
from typing import Final

from metadata.core.formats import marker
from metadata.core.formats.base import Format
from metadata.errors import InvalidRequest

FORMATS: Final[dict[str, Callable[[str], Format]]] = {marker.NAME: marker.marker_format}


def checkpoint_format(name: str, marker_name: str) -> Format:
    """The format called `name`; InvalidRequest names those that exist."""
    factory = FORMATS.get(name)
    if factory is None:
        raise InvalidRequest(f"format {name!r} is not known; it must be one of {', '.join(sorted(FORMATS))}.")
    return factory(marker_name)
