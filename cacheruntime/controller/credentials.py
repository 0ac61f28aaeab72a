"""Secrets that Datasets name, brought to where metadata and workers read them.

Owns the copies, in one of two forms. On one machine: files `<dir>/<namespace>/<secret>/<key>`, directories 0700, files
0600, replaced atomically. On a cluster: Secrets of the platform's own namespaces, mounted there as the credentials
folder, each value under `api.credentials.credential_key`. What no Dataset of a namespace names any more is removed.
Values are never logged or put in errors.
"""

import base64
import binascii
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from api.credentials import credential_key, credential_path, key_prefix
from kube.client import KubeClient
from kube.errors import AlreadyExists, Invalid, KubeError, NotFound
from kube.resources import SECRETS

SecretKey = tuple[str, str]
"""Name of a Secret, and a key of its."""


class SecretProblem(ValueError):
    """A credential a Dataset names cannot be had; the message says which field to mend."""


class Place(Protocol):
    """Where copies are kept; paths are `<namespace>/<secret>/<key>`."""

    async def put(self, values: dict[str, bytes]) -> None:
        """Add or replace these; what is there already is not written again. May be called twice."""
        ...

    async def keep_only(self, namespace: str, wanted: set[str]) -> None:
        """Remove the namespace's others. May be called twice."""
        ...


class Credentials:
    """Copies what Datasets name to every place."""

    def __init__(self, client: KubeClient, places: Sequence[Place]) -> None:
        self._client = client
        self._places = places

    async def write(self, namespace: str, keys: Iterable[SecretKey]) -> None:
        """Bring keys of one namespace's Secrets up to date; SecretProblem when one is missing."""
        by_secret: dict[str, list[str]] = {}
        for secret, key in keys:
            by_secret.setdefault(secret, []).append(key)
        for secret, wanted in sorted(by_secret.items()):
            data = await self._read(namespace, secret)
            values: dict[str, bytes] = {}
            for key in wanted:
                if key not in data:
                    raise SecretProblem(
                        f"encryptOptions names key {key!r} of Secret {namespace}/{secret}, which has only "
                        f"{sorted(data) or 'no keys'}"
                    )
                values[credential_path(namespace, secret, key)] = _decoded(data[key], namespace, secret, key)
            for place in self._places:
                await place.put(values)

    async def keep_only(self, namespace: str, keys: set[SecretKey]) -> None:
        """Remove the namespace's copies of what none of its Datasets names; `keys` is what they name."""
        wanted = {credential_path(namespace, *key) for key in keys}
        for place in self._places:
            await place.keep_only(namespace, wanted)

    async def _read(self, namespace: str, secret: str) -> dict[str, str]:
        try:
            body = await self._client.get(SECRETS, secret, namespace)
        except NotFound as error:
            raise SecretProblem(
                f"encryptOptions names Secret {namespace}/{secret}, which does not exist; create it"
            ) from error
        data: dict[str, str] = body.get("data") or {}
        return data


class Folder:
    """A folder of this machine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    async def put(self, values: dict[str, bytes]) -> None:
        """As `Place.put`. Blocks for the time of small writes."""
        for path, value in values.items():
            self._write_file(self._directory / path, value)

    async def keep_only(self, namespace: str, wanted: set[str]) -> None:
        """As `Place.keep_only`."""
        for file in (self._directory / namespace).glob("*/*"):
            if str(file.relative_to(self._directory)) not in wanted:
                file.unlink(missing_ok=True)

    def _write_file(self, target: Path, value: bytes) -> None:
        if target.exists() and target.read_bytes() == value:
            return
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        Path(temporary).replace(target)


class MirrorSecret:
    """One Secret that holds all copies, for a namespace whose pods mount it.

    A Secret holds 1 MiB: some thousand keys. What was written last is remembered, so that nothing is read for a
    Dataset whose credentials are there; the first call of a process reads it."""

    def __init__(self, client: KubeClient, namespace: str, name: str) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._known: dict[str, str] | None = None

    async def put(self, values: dict[str, bytes]) -> None:
        """As `Place.put`. Raises KubeError; SecretProblem when it is full."""
        known = await self._data()
        data = {credential_key(path): base64.b64encode(value).decode() for path, value in values.items()}
        changed = {key: value for key, value in data.items() if known.get(key) != value}
        if changed:
            await self._patch(changed)

    async def keep_only(self, namespace: str, wanted: set[str]) -> None:
        """As `Place.keep_only`. Raises KubeError."""
        keys = {credential_key(path) for path in wanted}
        prefix = key_prefix(namespace)
        gone = [key for key in await self._data() if key.startswith(prefix) and key not in keys]
        if gone:
            await self._patch(dict.fromkeys(gone))

    async def _data(self) -> dict[str, str]:
        if self._known is None:
            try:
                body = await self._client.get(SECRETS, self._name, self._namespace)
            except NotFound:
                body = await self._make()
            self._known = dict(body.get("data") or {})
        return self._known

    async def _make(self) -> dict[str, object]:
        fresh = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "type": "Opaque",
        }
        try:
            return await self._client.create(SECRETS, fresh, self._namespace)
        except AlreadyExists:
            return await self._client.get(SECRETS, self._name, self._namespace)

    async def _patch(self, data: dict[str, str] | dict[str, None]) -> None:
        try:
            body = await self._client.patch(SECRETS, self._name, {"data": data}, self._namespace)
        except Invalid as error:
            raise SecretProblem(f"Secret {self._namespace}/{self._name} takes no more credentials") from error
        except KubeError:
            self._known = None  # whether it was written is not known: the next call looks
            raise
        self._known = dict(body.get("data") or {})


def _decoded(text: str, namespace: str, secret: str, key: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SecretProblem(f"Secret {namespace}/{secret} key {key!r} is not base64") from error
