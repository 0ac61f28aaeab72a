"""Format name → factory. A new format is one module here, one line, one test."""

from collections.abc import Callable
from typing import Final

from metadata.core.formats import auto, marker, orbax, torch_dcp, tracker
from metadata.core.formats.base import Format
from metadata.errors import InvalidRequest

FORMATS: Final[dict[str, Callable[[str], Format]]] = {
    marker.NAME: marker.marker_format,
    torch_dcp.NAME: torch_dcp.torch_dcp,
    tracker.MEGATRON: tracker.megatron,
    tracker.DEEPSPEED: tracker.deepspeed,
    orbax.NAME: orbax.orbax,
    auto.NAME: auto.auto,
}


def checkpoint_format(name: str, marker_name: str) -> Format:
    """The format called `name`; InvalidRequest names those that exist."""
    factory = FORMATS.get(name)
    if factory is None:
        raise InvalidRequest(f"format {name!r} is not known; it must be one of {', '.join(FORMATS)}.")
    return factory(marker_name)
