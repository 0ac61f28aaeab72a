"""The step a directory's name tells."""

import re

# 18 digits always fit 64 bits; a longer number is a time or a hash, not a step.
_STEP = re.compile(r"(?<![0-9])([0-9]{1,18})$")
_ORBAX_TEMPORARY = ".orbax-checkpoint-tmp"


def step_at_end(name: str) -> int | None:
    """The number a name ends in; None when there is none, or when it is the time in a temporary name of Orbax."""
    match = _STEP.search(name)
    return int(match[1]) if match and _ORBAX_TEMPORARY not in name else None
