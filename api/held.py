"""Names of held versions: files that two workers keep on their disks before the under store has them.

Owns the form of the etag such a version bears until it is uploaded. It names both holders, so that a reader finds the
bytes without asking anybody. Pure. Invariant: no under store gives an etag of this form, and an id is never used twice.
"""

import re
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "held-"
_FORM: Final = re.compile(r"held-([0-9a-f]{32})@([^,@\s]+),([^,@\s]+)")


@dataclass(frozen=True, slots=True)
class HeldName:
    """One held version; `holders` are nodes, first the one on which it was written."""

    id: str
    holders: tuple[str, str]

    @property
    def etag(self) -> str:
        """The etag it bears in the namespace."""
        return f"{PREFIX}{self.id}@{','.join(self.holders)}"


def is_held(etag: str) -> bool:
    """Whether the etag is of a held version."""
    return etag.startswith(PREFIX) and _FORM.fullmatch(etag) is not None


def held_name(etag: str) -> HeldName | None:
    """Return what the etag of a held version says; None when it is of an object in the under store."""
    found = _FORM.fullmatch(etag)
    return None if found is None else HeldName(found[1], (found[2], found[3]))
