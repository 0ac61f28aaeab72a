"""Secrets and ConfigMaps of a pod, read when they are needed.

Owns the reads. Does not cache: a pod is started once, and a value that was corrected must
be seen by the next try. Invariant: only objects the pod's spec names are read."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any

from headrace.node.core.environment import KeyedObjects
from headrace.node.core.pod_spec import Container
from kube.client import KubeClient
from kube.errors import NotFound
from kube.resources import CONFIG_MAPS, SECRETS

Data = dict[str, bytes]


async def read_secret(client: KubeClient, namespace: str, name: str) -> Data | None:
    """Return a Secret's data, None when it does not exist."""
    body = await _get(client, SECRETS, namespace, name)
    return None if body is None else _decoded(body.get("data"))


async def read_config_map(client: KubeClient, namespace: str, name: str) -> Data | None:
    """Return a ConfigMap's data (text and binary), None when it does not exist."""
    body = await _get(client, CONFIG_MAPS, namespace, name)
    if body is None:
        return None
    text = {key: value.encode() for key, value in (body.get("data") or {}).items()}
    return text | _decoded(body.get("binaryData"))


async def for_environment(client: KubeClient, namespace: str, container: Container) -> KeyedObjects:
    """Return the objects a container's environment names, as far as they exist."""
    secrets, config_maps = _named(container)
    return KeyedObjects(
        secrets={n: data for n in secrets if (data := await read_secret(client, namespace, n)) is not None},
        config_maps={n: data for n in config_maps if (data := await read_config_map(client, namespace, n)) is not None},
    )


def _named(container: Container) -> tuple[list[str], list[str]]:
    secrets: list[str] = []
    config_maps: list[str] = []
    for source in container.env_from:
        secrets += [source.secret_ref.name] if source.secret_ref else []
        config_maps += [source.config_map_ref.name] if source.config_map_ref else []
    for variable in container.env:
        if variable.value_from is not None:
            secret, config_map = variable.value_from.secret_key_ref, variable.value_from.config_map_key_ref
            secrets += [secret.name] if secret else []
            config_maps += [config_map.name] if config_map else []
    return _unique(secrets), _unique(config_maps)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


async def _get(client: KubeClient, resource: Any, namespace: str, name: str) -> dict[str, Any] | None:
    try:
        return await client.get(resource, name, namespace)
    except NotFound:
        return None


def _decoded(data: dict[str, str] | None) -> Data:
    result = {}
    for key, value in (data or {}).items():
        try:
            result[key] = base64.b64decode(value)
        except binascii.Error:
            # The API server only stores valid base64.
            continue
    return result
