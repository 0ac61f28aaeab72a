"""Members of several shapes into the room of a few nodes, exactly: found if it exists, within a bounded amount of work.

Owns the search; knows sizes only, no pods or nodes. Pure and deterministic. Nodes with equal room that may hold the
same shapes are one class, and a state that failed once is not searched again. Biggest members first, each where the
least is left over; given up as soon as what is left of some resource, on nodes that can hold any member still to come,
is less than they ask for. Invariant: what is returned fits; None says only that nothing was found.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

Amounts = tuple[int, ...]
Class = tuple[int, Amounts]  # the shapes that may be there, as bits; the room
# Classes looked at: those with the most room.
MAX_CLASSES = 64


@dataclass(slots=True)
class Work:
    """How many looks of a shape at a class are left."""

    left: int


def pack(
    asked: Sequence[Amounts],
    counts: Sequence[int],
    rooms: Sequence[Amounts],
    allowed: Sequence[Sequence[bool]],
    work: Work,
) -> list[Counter[int]] | None:
    """Place `counts[k]` members of each shape k, which asks for `asked[k]`, into `rooms`, as far as `allowed[k][room]`;
    returns for each shape how many go into which room."""
    width = len(rooms[0]) if rooms else 0
    total = tuple(sum(one[i] * count for one, count in zip(asked, counts, strict=True)) for i in range(width))
    rows_of: dict[Class, list[int]] = {}
    for row, room in enumerate(rooms):
        bits = sum(1 << kind for kind in range(len(asked)) if allowed[kind][row] and _fits(asked[kind], room))
        if bits:
            # More room than all members need is as good as any: it makes equals of unequal nodes.
            capped = tuple(map(min, room, total))
            rows_of.setdefault((bits, capped), []).append(row)
    if len(rows_of) > MAX_CLASSES:
        roomiest = sorted(rows_of, key=lambda one: _size(one[1], total), reverse=True)
        rows_of = {one: rows_of[one] for one in roomiest[:MAX_CLASSES]}
    order = sorted(range(len(asked)), key=lambda kind: (-_size(asked[kind], total), kind))
    members = [kind for kind in order for _ in range(counts[kind])]
    search = _Search(asked, members, total, work)
    if not search.find(Counter({one: len(rows) for one, rows in rows_of.items()}), 0, total):
        return None
    found: list[Counter[int]] = [Counter() for _ in asked]
    for kind, taken in zip(members, reversed(search.chosen), strict=True):
        row = rows_of[taken].pop(0)
        found[kind][row] += 1
        rows_of.setdefault(_less(taken, asked[kind]), []).append(row)
    return found


@dataclass(slots=True)
class _Search:
    """Depth first. `chosen` is filled from the last member to the first once all have a place."""

    asked: Sequence[Amounts]
    members: Sequence[int]
    total: Amounts
    work: Work
    chosen: list[Class] = field(default_factory=list)
    _failed: set[tuple[int, frozenset[tuple[Class, int]]]] = field(default_factory=set)

    def find(self, classes: Counter[Class], index: int, missing: Amounts) -> bool:
        """Whether the members from `index` on, who ask for `missing` in all, have places."""
        if index == len(self.members):
            return True
        state = (index, frozenset(classes.items()))
        if state in self._failed:
            return False
        kinds = list(dict.fromkeys(self.members[index:]))
        self.work.left -= len(classes) * len(kinds)
        if self.work.left >= 0 and self._is_enough(classes, kinds, missing):
            kind = self.members[index]
            asked = self.asked[kind]
            fitting = [one for one in classes if one[0] >> kind & 1 and _fits(asked, one[1])]
            less = {one: _less(one, asked) for one in fitting}
            rest = tuple(have - one for have, one in zip(missing, asked, strict=True))
            for one in sorted(fitting, key=lambda one: (_size(less[one][1], self.total), one)):
                after = classes.copy()
                after[one] -= 1
                if not after[one]:
                    del after[one]
                after[less[one]] += 1
                if self.find(after, index + 1, rest):
                    self.chosen.append(one)
                    return True
                if self.work.left < 0:
                    return False
        self._failed.add(state)
        return False

    def _is_enough(self, classes: Counter[Class], kinds: Sequence[int], missing: Amounts) -> bool:
        """Whether rooms that can hold any of these shapes have as much of everything as is missing."""
        left = list(missing)
        for (bits, room), count in classes.items():
            if any(bits >> kind & 1 and _fits(self.asked[kind], room) for kind in kinds):
                for i, amount in enumerate(room):
                    if amount > 0:
                        left[i] -= amount * count
        return all(amount <= 0 for amount in left)


def _fits(asked: Amounts, room: Amounts) -> bool:
    # Of what is not asked for a node may have less than nothing.
    return all(not amount or amount <= have for amount, have in zip(asked, room, strict=True))


def _less(one: Class, asked: Amounts) -> Class:
    return one[0], tuple(have - amount for have, amount in zip(one[1], asked, strict=True))


def _size(amounts: Amounts, total: Amounts) -> int:
    """Amounts of several resources in one number: in millionths of what all members ask for."""
    return sum(amount * 1_000_000 // whole for amount, whole in zip(amounts, total, strict=True) if whole)
