"""A user's YAML: read, placed, and turned into requests.

Owns the list of kinds `headrace submit` takes and the messages for a file that is not right. Invariant: a
message names the file, and the line and column where there is one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from headrace.errors import UsageError
from kube.resources import (
    CACHE_RUNTIMES,
    CONFIG_MAPS,
    CRON_TRAINING_JOBS,
    DATA_LOADS,
    DATASETS,
    NAMESPACES,
    PERSISTENT_VOLUME_CLAIMS,
    POD_GROUPS,
    PODS,
    PRIORITY_CLASSES,
    QUEUES,
    SECRETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    TRAINING_JOBS,
    Resource,
)

_KINDS = {
    (resource.api_version, resource.kind): resource
    for resource in (
        TRAINING_JOBS,
        CRON_TRAINING_JOBS,
        QUEUES,
        DATASETS,
        DATA_LOADS,
        CACHE_RUNTIMES,
        POD_GROUPS,
        PODS,
        SECRETS,
        CONFIG_MAPS,
        SERVICES,
        SERVICE_ACCOUNTS,
        PERSISTENT_VOLUME_CLAIMS,
        NAMESPACES,
        PRIORITY_CLASSES,
    )
}


@dataclass(frozen=True, slots=True)
class UserObject:
    """One document of a file. `body` may hold a Secret's values: never print it."""

    resource: Resource
    name: str
    namespace: str | None
    body: dict[str, Any]
    where: str

    @property
    def title(self) -> str:
        """Kind and name, for messages."""
        return f"{self.resource.kind} {self.name}"


def read(file: Path, namespace: str) -> list[UserObject]:
    """Return the objects of a YAML file ("-" = standard input); `namespace` is for those that name none.

    Raises UsageError."""
    source = "standard input" if str(file) == "-" else str(file)
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"{source} cannot be read: {reason}") from error
    try:
        found = _documents(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        # `problem` names the token, not its text: a Secret's value is never quoted.
        raise UsageError(f"{source}{place}: this is not YAML: {error.problem or 'it cannot be parsed'}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        # A date that is none, as 2026-02-30, is a ValueError to the reader; its text is not quoted either.
        raise UsageError(
            f"{source}: this is not YAML, or holds a value that cannot be read, as a date that is none"
        ) from None
    if not found:
        raise UsageError(f"{source} holds no object")
    return [_object(body, f"{source}:{line}", namespace) for line, body in found]


def _documents(text: str) -> list[tuple[int, Any]]:
    """Every document that is not empty, with the line it begins on."""
    loader = yaml.SafeLoader(text)
    found = []
    try:
        while loader.check_node():
            node = loader.get_node()
            body = loader.construct_document(node) if node is not None else None
            if node is not None and body is not None:
                found.append((node.start_mark.line + 1, body))
    finally:
        loader.dispose()
    return found


def _object(body: Any, where: str, namespace: str) -> UserObject:
    if not isinstance(body, dict):
        raise UsageError(f"{where}: a {type(body).__name__} stands where an object with apiVersion and kind should")
    for field in ("apiVersion", "kind"):
        if not isinstance(body.get(field), str):
            raise UsageError(f"{where}: {field} is missing")
    resource = _KINDS.get((body["apiVersion"], body["kind"]))
    if resource is None:
        raise UsageError(f"{where}: {_unknown_kind(body['apiVersion'], body['kind'])}")
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not isinstance(metadata, dict) or not isinstance(name, str) or not name:
        raise UsageError(f"{where}: {body['kind']} has no metadata.name")
    place = (metadata.get("namespace") or namespace) if resource.namespaced else None
    if place is not None and not isinstance(place, str):
        raise UsageError(f"{where}: metadata.namespace {place!r} of {body['kind']} {name} must be text, as '{place}'")
    return UserObject(resource, name, place, body, where)


def _unknown_kind(api_version: str, kind: str) -> str:
    right = next((version for version, known in _KINDS if known == kind), None)
    if right is not None:
        return f"{kind} has apiVersion {api_version!r}; it should be {right}"
    known = ", ".join(sorted(kind for _, kind in _KINDS))
    return f"kind {kind} ({api_version}) is not one that submit knows; it knows {known}"
