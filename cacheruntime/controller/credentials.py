"""Secrets that Datasets name, as files metadata and workers read.

Owns the credentials folder of a local deployment: `<dir>/<namespace>/<secret>/<key>`, directories 0700, files 0600,
replaced atomically. On a cluster the folder is a mounted volume instead. Values are never logged or put in errors.
"""

import base64
import binascii
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from kube.client import KubeClient
from kube.errors import NotFound
from kube.resources import SECRETS


class SecretProblem(ValueError):
    """A credential a Dataset names cannot be had; the message says which field to mend."""


class CredentialFiles:
    """Writes the files; one instance a process."""

    def __init__(self, client: KubeClient, directory: Path) -> None:
        self._client = client
        self._directory = directory

    async def write(self, namespace: str, keys: Iterable[tuple[str, str]]) -> None:
        """Bring (secret, key) pairs of one namespace up to date; SecretProblem when one is missing."""
        by_secret: dict[str, list[str]] = {}
        for secret, key in keys:
            by_secret.setdefault(secret, []).append(key)
        for secret, wanted in sorted(by_secret.items()):
            data = await self._read(namespace, secret)
            for key in wanted:
                if key not in data:
                    raise SecretProblem(
                        f"encryptOptions names key {key!r} of Secret {namespace}/{secret}, which has only "
                        f"{sorted(data) or 'no keys'}"
                    )
                self._write_file(self._directory / namespace / secret, key, _decoded(data[key], namespace, secret, key))

    async def _read(self, namespace: str, secret: str) -> dict[str, str]:
        try:
            body = await self._client.get(SECRETS, secret, namespace)
        except NotFound as error:
            raise SecretProblem(
                f"encryptOptions names Secret {namespace}/{secret}, which does not exist; create it"
            ) from error
        data: dict[str, str] = body.get("data") or {}
        return data

    def _write_file(self, folder: Path, key: str, value: bytes) -> None:
        target = folder / key
        if target.exists() and target.read_bytes() == value:
            return
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".new-")
        with os.fdopen(descriptor, "wb") as file:
            file.write(value)
        Path(temporary).replace(target)


def _decoded(text: str, namespace: str, secret: str, key: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise SecretProblem(f"Secret {namespace}/{secret} key {key!r} is not base64") from error
