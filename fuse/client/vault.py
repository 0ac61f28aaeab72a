"""Where descriptors of staging files, and tokens, outlive the daemon.

Owns the protocol and its empty form, for daemons without a keeper; the keeper's side of it is in node/session.py.
"""

import itertools
from typing import Protocol


class Vault(Protocol):
    """Keeps descriptors by the number of their staging file."""

    def next_number(self) -> int:
        """Return the number of another staging file: one that was never given before."""
        ...

    def keep(self, number: int, descriptor: int) -> None:
        """Keep a copy of the descriptor, in place of what was kept under the number. BlockingIOError when there is no
        room for it now, another OSError when it cannot."""
        ...

    def let_go(self, number: int) -> None:
        """Drop what is kept under the number, once what led to it is written down. Nothing kept is no error."""
        ...

    def take(self, number: int) -> int | None:
        """Return the descriptor an earlier daemon kept, the caller's from now on; it stays kept. None: nothing is."""
        ...


class TokenVault(Protocol):
    """Keeps tokens for the next daemon: it may have to serve while the metadata service is away."""

    tokens: bytes
    """What an earlier daemon kept; b"" = nothing."""

    def keep_tokens(self, tokens: bytes) -> None:
        """Keep these in place of the ones before."""
        ...


class NoVault:
    """Nothing outlives the daemon."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def next_number(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    def keep(self, number: int, descriptor: int) -> None:
        """Keep nothing."""

    def let_go(self, number: int) -> None:
        """Nothing is kept."""

    def take(self, number: int) -> int | None:
        """Return None."""
        return None
