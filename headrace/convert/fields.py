"""Fields of a foreign object, taken one by one, so that what nobody took can be told.

Owns the bookkeeping. Invariant: every field of the source is either taken or listed as left over, none is dropped
silently."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]


@dataclass
class Fields:
    """One mapping of the source at `path`; `notes` is shared by all parts of an object."""

    path: str
    source: Mapping[str, Any]
    notes: list[str]
    _left: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._left = dict(self.source)

    def take(self, name: str, default: Any = None) -> Any:
        """Return a field and count it as used."""
        value = self._left.pop(name, None)
        return default if value is None else value

    def part(self, name: str) -> Fields:
        """A nested mapping, taken; empty when it is not there, or is something else, which is said."""
        value = self.take(name)
        if not isinstance(value, Mapping):
            self._say_wrong(name, value, "object")
            value = {}
        return Fields(f"{self.path}.{name}", value, self.notes)

    def parts(self, name: str) -> list[Fields]:
        """The mappings of a list, taken; what else is there is said."""
        values = self.take(name)
        if not isinstance(values, list):
            self._say_wrong(name, values, "list of objects")
            values = []
        for index, value in enumerate(values):
            if not isinstance(value, Mapping):
                self._say_wrong(f"{name}[{index}]", value, "object")
        return [
            Fields(f"{self.path}.{name}[{index}]", value, self.notes)
            for index, value in enumerate(values)
            if isinstance(value, Mapping)
        ]

    def items(self) -> Iterator[tuple[str, Fields]]:
        """The nested mappings by name, taken."""
        for name in list(self._left):
            if isinstance(self._left[name], Mapping):
                yield name, self.part(name)

    def copy(self, target: Body, *names: str) -> None:
        """Carry fields over that have the same name and meaning here."""
        for name in names:
            value = self.take(name)
            if value is not None:
                target[name] = value

    def note(self, text: str) -> None:
        """Say something about this part."""
        self.notes.append(f"{self.path}: {text}")

    def _say_wrong(self, name: str, value: Any, right: str) -> None:
        if value not in ({}, [], "", None):
            self.notes.append(f"{self.path}.{name} is no {right}; it was left out")

    def finish(self) -> None:
        """Tell of what was not taken."""
        for name, value in self._left.items():
            if value not in ({}, [], "", None):
                self.notes.append(f"{self.path}.{name} has no counterpart and was left out")
        self._left.clear()
