"""Which files to bring here before a reader opens them: the order it declared, or what opens so far have taught.

Owns the window ahead of readers. Does no I/O and reads no clock.

    declared:  a b c d e f g h …        opened c  ->  d e f g (as many files and bytes as may be ahead)
    learned:   part-0007, part-0009, part-0011 opened  ->  part-0013, part-0015 …, more with every one that came true
                                          of several such rows and repeats, that in the hottest directory first
    repeated: x q f k … last time, x q f again  ->  k, and more with every one that came true

Invariants: no file is given out twice while it is ahead; what is ahead never exceeds `bytes_max` by more than one file
for each that is being fetched; a file nobody opened within `UNUSED_SECONDS` is let go.
"""

import re
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

Key: TypeAlias = tuple[str, str]
"""Dataset uid and path."""

FILES_AHEAD: Final = 256
"""Of one reader; small files are limited by their number, large ones by their bytes."""
ORDER_FILES_MAX: Final = 4_000_000
"""Of one order; about 40 bytes each."""
ORDERS_MAX: Final = 256
UNUSED_SECONDS: Final = 120.0
LOOK_AHEAD: Final = 64
"""How far ahead of us a reader is looked for in its order."""
ROWS_MAX: Final = 512
ROW_STEPS_MAX: Final = 16
"""Files ahead in a learned row, once it came true often."""
CERTAIN_AFTER: Final = 2
"""Equal steps before a row is believed."""
DIRECTORIES_MAX: Final = 1024
"""Whose heat is remembered, the last used ones."""
HEAT_MAX: Final = 4096.0
"""All heat is halved when it adds up to this, so that yesterday's fades; no clock is needed."""
SEQUENCES_MAX: Final = 64
SEQUENCE_FILES_MAX: Final = 20_000
"""Of one directory; what was opened first is forgotten first."""
_NUMBERS: Final = re.compile(r"\d+")
_NUMBERS_MAX: Final = 4
_DIGITS_MAX: Final = 18


class Order:
    """Paths in the order in which one reader will open them."""

    def __init__(self, uid: str) -> None:
        self.uid = uid
        self._text = bytearray()
        self._ends = array("Q")
        self._given = 0
        self._near: OrderedDict[str, int] = OrderedDict()
        self._read = 0

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> str:
        begin = self._ends[number - 1] if number else 0
        return self._text[begin : self._ends[number]].decode()

    def extend(self, paths: Iterable[str]) -> None:
        """Add paths at the end."""
        for path in paths:
            self._text += path.encode()
            self._ends.append(len(self._text))

    def next(self) -> str | None:
        """Give out the next path; None when that is far enough ahead, or the end."""
        if self._given >= len(self) or self._given - self._read >= FILES_AHEAD:
            return None
        path = self[self._given]
        self._near[path] = self._given
        self._near.move_to_end(path)
        if len(self._near) > 2 * FILES_AHEAD:
            self._near.popitem(last=False)
        self._given += 1
        return path

    def opened(self, path: str) -> None:
        """A reader opened a file of the dataset: if it is one of ours, go on from there."""
        number = self._near.get(path)
        if number is None:
            ahead = range(self._given, min(self._given + LOOK_AHEAD, len(self)))
            number = next((i for i in ahead if self[i] == path), None)
            if number is None:
                return
            self._given = number + 1
        self._read = max(self._read, number + 1)


@dataclass(slots=True)
class _Row:
    """Names that differ in one number."""

    before: str
    after: str
    digits: int
    last: int
    step: int = 0
    came_true: int = 0
    given: int = 0
    is_over: bool = False

    def name(self, number: int) -> str:
        return f"{self.before}{number:0{self.digits}d}{self.after}"

    def opened(self, number: int) -> None:
        apart = number - self.last
        if -ROW_STEPS_MAX <= apart <= 0:
            return  # Several readers of one row are not exactly in turn.
        self.last, self.is_over = number, False
        if apart < 0 or (self.step and (apart % self.step or apart // self.step > ROW_STEPS_MAX)):
            self.step, self.came_true = 0, 0
        elif self.step:
            self.came_true += 1
        else:
            self.step, self.came_true = apart, 1

    def next(self) -> str | None:
        if self.is_over:
            return None
        ahead = self.given - self.last
        if ahead < 0 or ahead % self.step:
            self.given, ahead = self.last, 0
        if ahead >= self.step * min(2 ** (self.came_true - 1), ROW_STEPS_MAX):
            return None
        self.given += self.step
        return self.name(self.given)


Give: TypeAlias = Callable[[], str | None]
_RowKey: TypeAlias = tuple[str, str, str, int]


class Rows:
    """Rows of numbered names in which files are being opened, the most lately used ones."""

    def __init__(self) -> None:
        self._rows: OrderedDict[_RowKey, _Row] = OrderedDict()
        self._believed: dict[_RowKey, _Row] = {}

    def opened(self, uid: str, path: str) -> None:
        """Learn from a file that was opened."""
        for key, number in self._keys(uid, path):
            row = self._rows.get(key)
            if row is not None:
                row.opened(number)
                self._rows.move_to_end(key)
                if row.came_true >= CERTAIN_AFTER:
                    self._believed[key] = row
                else:
                    self._believed.pop(key, None)
                continue
            self._rows[key] = _Row(*key[1:], last=number)
            if len(self._rows) > ROWS_MAX:
                oldest, _ = self._rows.popitem(last=False)
                self._believed.pop(oldest, None)

    def next(self) -> Key | None:
        """Give out a path that is likely to be next, of whichever row."""
        for (uid, _), give in self.believed():
            path = give()
            if path is not None:
                return uid, path
        return None

    def believed(self) -> Iterator[tuple[Key, Give]]:
        """Yield the directory of each row that has come true, and what gives out its next path."""
        for (uid, before, *_), row in self._believed.items():
            yield (uid, before.rpartition("/")[0]), row.next

    def missing(self, uid: str, path: str) -> None:
        """There is no such file: its rows end before it, until files behind it are opened."""
        for key, number in self._keys(uid, path):
            row = self._rows.get(key)
            if row is not None and number > row.last:
                row.is_over = True

    def _keys(self, uid: str, path: str) -> Iterator[tuple[_RowKey, int]]:
        """Yield the row that each number of the name may belong to, and the number."""
        for found in list(_NUMBERS.finditer(path, path.rfind("/") + 1))[-_NUMBERS_MAX:]:
            text = found.group()
            if len(text) > _DIGITS_MAX:
                continue
            key = (uid, path[: found.start()], path[found.end() :], len(text))
            if key not in self._rows and (text[0] != "0" or text == "0"):
                # Nothing says that the numbers are padded to a width.
                key = (*key[:3], 0)
            yield key, int(text)


class Heat:
    """How often files of each directory are opened, older times counting less."""

    def __init__(self) -> None:
        self._heat: OrderedDict[Key, float] = OrderedDict()
        self._sum = 0.0

    def opened(self, uid: str, path: str) -> None:
        """A file was opened."""
        key = directory_of(uid, path)
        self._heat[key] = self._heat.pop(key, 0.0) + 1
        self._sum += 1
        if len(self._heat) > DIRECTORIES_MAX:
            self._sum -= self._heat.popitem(last=False)[1]
        if self._sum > HEAT_MAX:
            for one in self._heat:
                self._heat[one] /= 2
            self._sum /= 2

    def of(self, directory: Key) -> float:
        """The heat of a directory (uid, path)."""
        return self._heat.get(directory, 0.0)


def directory_of(uid: str, path: str) -> Key:
    """Return the directory a file lies in."""
    return uid, path.rpartition("/")[0]


class _Sequence:
    """What was opened after what in one directory."""

    __slots__ = ("_after", "_given", "_last", "came_true")

    def __init__(self) -> None:
        self._after: OrderedDict[str, str] = OrderedDict()
        self._given: set[str] = set()
        self._last: str | None = None
        self.came_true = 0

    def opened(self, path: str) -> None:
        last, self._last = self._last, path
        self._given.discard(path)
        if last is None or last == path:
            return
        if self._after.pop(last, None) == path:
            self.came_true += 1
        else:
            self.came_true = 0
            self._given.clear()
        self._after[last] = path
        if len(self._after) > SEQUENCE_FILES_MAX:
            self._after.popitem(last=False)

    def next(self) -> str | None:
        path = self._last
        for _ in range(min(2 ** (self.came_true - 1), ROW_STEPS_MAX)):
            path = self._after.get(path) if path is not None else None
            if path is None or path == self._last:
                return None
            if path not in self._given:
                self._given.add(path)
                return path
        return None


class Sequences:
    """Orders in which the files of directories were opened last time, of the last used directories. A shuffled epoch
    repeats nothing, so nothing is given out for it."""

    def __init__(self) -> None:
        self._sequences: OrderedDict[Key, _Sequence] = OrderedDict()

    def opened(self, uid: str, path: str) -> None:
        """Learn from a file that was opened."""
        key = directory_of(uid, path)
        sequence = self._sequences.pop(key, None) or _Sequence()
        self._sequences[key] = sequence
        if len(self._sequences) > SEQUENCES_MAX:
            self._sequences.popitem(last=False)
        sequence.opened(path)

    def believed(self) -> Iterator[tuple[Key, Give]]:
        """Yield each directory whose last order is being repeated, and what gives out its next path."""
        for key, sequence in self._sequences.items():
            if sequence.came_true >= CERTAIN_AFTER:
                yield key, sequence.next


@dataclass(slots=True)
class _Ahead:
    since_seconds: float
    size_bytes: int = 0


@dataclass(slots=True)
class Preheat:
    """What is ahead of this node's readers. `bytes_max` of it at most."""

    bytes_max: int
    learns: bool = True
    """Whether opens teach rows of names, repeated orders and heat; else only declared orders are followed."""
    ahead_bytes: int = 0
    _orders: dict[object, Order] = field(default_factory=dict)
    _turn: int = 0
    _rows: Rows = field(default_factory=Rows)
    _sequences: Sequences = field(default_factory=Sequences)
    _heat: Heat = field(default_factory=Heat)
    _ahead: dict[Key, _Ahead] = field(default_factory=dict)

    @property
    def head_bytes_max(self) -> int:
        """Of one file: who reads a large one from its start is served by what reads ahead within files."""
        return self.bytes_max // 4

    def declare(self, owner: object, uid: str, first: int, paths: Sequence[str]) -> int:
        """Take an order, or the next part of it; return how many files it has now. `first` 0 begins anew.

        ValueError when a part is missing before it, or it is too long.
        """
        order = self._orders.get(owner)
        if first == 0:
            self._orders.pop(owner, None)
            if len(self._orders) >= ORDERS_MAX:
                raise ValueError(f"{ORDERS_MAX} orders are declared on this node; that is the most there may be")
            order = self._orders[owner] = Order(uid)
        elif order is None or order.uid != uid or len(order) != first:
            have = len(order) if order is not None and order.uid == uid else 0
            raise ValueError(f"first {first} is not where the order goes on: it has {have} files")
        if first + len(paths) > ORDER_FILES_MAX:
            raise ValueError(f"an order of {first + len(paths)} files is too long; the most is {ORDER_FILES_MAX}")
        order.extend(paths)
        return len(order)

    def forget(self, owner: object) -> None:
        """The reader is gone."""
        self._orders.pop(owner, None)

    @property
    def has_orders(self) -> bool:
        """Whether anybody declared one."""
        return bool(self._orders)

    def opened(self, uid: str, path: str, *, is_resident: bool) -> bool:
        """A reader opened a file; whether it was ahead, and so need no longer be held for it."""
        was_ahead = self._let_go((uid, path))
        if self.learns:
            self._heat.opened(uid, path)
            self._sequences.opened(uid, path)
            if was_ahead or not is_resident:
                self._rows.opened(uid, path)
        for order in self._orders.values():
            if order.uid == uid:
                order.opened(path)
        return was_ahead

    def next(self, now_seconds: float) -> Key | None:
        """Give out the next file to bring here; None while there is none, or enough is ahead."""
        while self.ahead_bytes < self.bytes_max:
            key = self._next()
            if key is None:
                return None
            if key not in self._ahead:
                self._ahead[key] = _Ahead(now_seconds)
                return key
        return None

    def _next(self) -> Key | None:
        orders = list(self._orders.values())
        for _ in orders:
            self._turn = (self._turn + 1) % len(orders)
            order = orders[self._turn]
            path = order.next()
            if path is not None:
                return order.uid, path
        learned = [*self._rows.believed(), *self._sequences.believed()]
        for (uid, _), give in sorted(learned, key=lambda one: -self._heat.of(one[0])):
            path = give()
            if path is not None:
                return uid, path
        return None

    def sized(self, key: Key, size_bytes: int) -> int:
        """The file's size is known: return how many of its first bytes to bring here; 0 when it was opened by now."""
        ahead = self._ahead.get(key)
        if ahead is None:
            return 0
        ahead.size_bytes = min(size_bytes, self.head_bytes_max)
        self.ahead_bytes += ahead.size_bytes
        return ahead.size_bytes

    def missing(self, key: Key) -> None:
        """There is no such file."""
        self._let_go(key)
        self._rows.missing(*key)

    def drop(self, key: Key) -> None:
        """The file need not, or cannot, be brought here."""
        self._let_go(key)

    def is_ahead(self, key: Key) -> bool:
        """Whether the file is still waited for."""
        return key in self._ahead

    def unused(self, now_seconds: float) -> list[Key]:
        """Let go of files that nobody opened in a long time, and return them."""
        old = [key for key, ahead in self._ahead.items() if now_seconds - ahead.since_seconds > UNUSED_SECONDS]
        for key in old:
            self._let_go(key)
        return old

    def _let_go(self, key: Key) -> bool:
        ahead = self._ahead.pop(key, None)
        if ahead is None:
            return False
        self.ahead_bytes -= ahead.size_bytes
        return True
