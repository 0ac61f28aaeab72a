"""One version of an object read in order where the node does not keep it: its bytes come over a connection of its own.

Several blocks are asked for ahead, so that the worker fetches the next ones while these are read; and none is written
to a disk only to be read from it once. Owns the connection. Not for several threads at once.
"""

from collections import deque
from typing import Any

from headrace_sdk.worker import READ, Connection

AHEAD_BLOCKS = 4
BEGIN_BYTES = 4 << 20
"""So much in order makes a reader one that goes on."""


class Stream:
    """The bytes from `at` on."""

    def __init__(self, connection: Connection, version: dict[str, Any], at: int) -> None:
        """Takes the connection over. OSError."""
        self._connection = connection
        self._version = version
        self._size_bytes = int(version["size_bytes"])
        self.at = at
        self._asked_until = at
        self._waiting: dict[int, tuple[int, int]] = {}
        """Where, and how long, is what a request asked for."""
        self._here: dict[int, memoryview] = {}
        self._spare: deque[bytearray] = deque()
        # Alone: should a token have to be shown, it is shown here.
        start, length = self._next_range()
        self._here[start] = memoryview(connection.call(READ, self._request(start, length)).data)

    def _request(self, offset: int, length: int) -> dict[str, Any]:
        return {**self._version, "offset_bytes": offset, "length_bytes": length}

    def _next_range(self) -> tuple[int, int]:
        block, start = self._connection.block_size_bytes, self._asked_until
        self._asked_until = min((start // block + 1) * block, self._size_bytes)
        return start, self._asked_until - start

    def read_into(self, view: memoryview) -> int:
        """Read on; return the bytes read, 0 only at the end. OSError, ConnectionLost: then it is of no more use."""
        if self.at >= self._size_bytes or not view:
            return 0
        while len(self._waiting) < AHEAD_BLOCKS and self._asked_until < self._size_bytes:
            start, length = self._next_range()
            self._waiting[self._connection.ask(READ, self._request(start, length))] = start, length
        while (found := self._here.pop(self.at, None)) is None:
            if (count := self._receive(view)) is not None:
                self.at += count
                return count
        count = min(len(found), len(view))
        view[:count] = found[:count]
        self.at += count
        if count < len(found):
            self._here[self.at] = found[count:]
        elif isinstance(found.obj, bytearray):
            self._spare.append(found.obj)
        return count

    def _receive(self, view: memoryview) -> int | None:
        """Take the next answer: into `view` if it is what is read now and has room there, then return its length."""
        is_direct = False

        def place(number: int, size_bytes: int) -> memoryview:
            nonlocal is_direct
            start, length = self._waiting[number]
            if size_bytes != length:
                raise OSError("the worker sent another range than it was asked for")
            is_direct = start == self.at and length <= len(view)
            if is_direct:
                return view[:length]
            memory = self._spare.popleft() if self._spare and len(self._spare[0]) == length else bytearray(length)
            self._here[start] = memoryview(memory)
            return self._here[start]

        number = self._connection.answer(READ, place)
        _, length = self._waiting.pop(number)
        return length if is_direct else None

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
