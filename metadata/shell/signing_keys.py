"""The keys tokens are signed with, from a folder that may change at any time.

Owns reading NAME.pem and choosing the key that signs. Invariants: every key in the folder is good for checking; a new
key signs only after it was there for a while, unless it is the only one; a file that is no key is said once and left
out, and with none left the last good ones stay in use. No part of a key is in any message.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from api.trust.tokens import SigningKey
from metadata.errors import SettingsError

CHECK_SECONDS: Final = 1.0
log = structlog.get_logger()


class SigningKeys:
    """One folder."""

    def __init__(self, folder: Path, *, settle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """SettingsError when there is no key."""
        self._folder = folder
        self._settle_seconds = settle_seconds
        self._clock = clock
        self._looked_at = clock()
        self._told: set[str] = set()
        # What is there at the start was there before: an instance that starts anew signs as the others do.
        self._keys = {name: (key, self._looked_at - settle_seconds) for name, key in self._read().items()}
        if not self._keys:
            raise SettingsError(f"token_keys {folder} has no usable key; it needs an Ed25519 private key as NAME.pem.")

    def public(self) -> list[bytes]:
        """Return the keys others check with."""
        self._look()
        return [key.public_bytes for key, _ in self._keys.values()]

    def signer(self) -> SigningKey:
        """Return the key to sign with: the last by name of those that are settled, or the first that will be."""
        self._look()
        now = self._clock()
        settled = [name for name, (_, since) in self._keys.items() if now - since >= self._settle_seconds]
        chosen = max(settled) if settled else min(self._keys, key=lambda name: self._keys[name][1])
        return self._keys[chosen][0]

    def _look(self) -> None:
        now = self._clock()
        if now - self._looked_at < CHECK_SECONDS:
            return
        self._looked_at = now
        found = self._read()
        if not found:
            self._say("", "the folder has no usable key any more; the last ones stay in use")
            return
        known = {key.key_id: since for key, since in self._keys.values()}
        if {key.key_id for key in found.values()} != known.keys():
            log.info("metadata.token_keys_changed", keys=sorted(key.key_id for key in found.values()))
        self._keys = {name: (key, known.get(key.key_id, now)) for name, key in found.items()}

    def _read(self) -> dict[str, SigningKey]:
        keys: dict[str, SigningKey] = {}
        for path in sorted(self._folder.glob("*.pem")):
            try:
                private = load_pem_private_key(path.read_bytes(), None)
            except OSError as error:
                self._say(path.name, f"cannot be read: {error.strerror}")
                continue
            except (ValueError, TypeError):
                # The library's own text is not repeated: it has seen the key.
                self._say(path.name, "is no private key in PEM without a passphrase")
                continue
            if isinstance(private, Ed25519PrivateKey):
                keys[path.name] = SigningKey.of(private)
            else:
                self._say(path.name, "is not an Ed25519 key")
        return keys

    def _say(self, name: str, what: str) -> None:
        if (key := f"{name} {what}") not in self._told:
            self._told.add(key)
            log.warning("metadata.token_key_left_out", folder=str(self._folder), file=name, why=what)
