"""Who an object is: its metadata, and how any object is identified and referred to.

Owns the base of all typed objects and ObjectMeta. Does not know any kind (kube/objects.py).
Invariant: an object is one uid; a name may come back with another.
"""

from typing import Any, NamedTuple, cast

import msgspec

JsonObject = dict[str, Any]


class Object(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel", gc=False):
    """Base of all structs here: camelCase on the wire, snake_case in Python, defaults left out.

    Decoded JSON has no cycles, so the collector need not walk 100,000 pods: gc=False.
    """


class OwnerReference(Object, frozen=True):
    """The object this one belongs to; at most one owner is the controller."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class ObjectMeta(Object, frozen=True):
    """Identity, labels and life cycle of any object; namespace is "" for cluster-scoped kinds."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    owner_references: list[OwnerReference] = []
    finalizers: list[str] = []


class Condition(Object, frozen=True):
    """A condition as all kinds write them; `status` is True, False or Unknown."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0


class Identity(NamedTuple):
    """Who an object is, and which version of it this is."""

    namespace: str
    name: str
    uid: str
    resource_version: str


class ObjectRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """A reference as events carry it."""

    api_version: str = "v1"
    kind: str
    namespace: str = ""
    name: str
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


def identity_of(item: Any) -> Identity:
    """Identity of a struct with `metadata`, or of a plain dict."""
    if isinstance(item, dict):
        meta: JsonObject = item.get("metadata") or {}
        return Identity(
            meta.get("namespace") or "",
            meta.get("name") or "",
            meta.get("uid") or "",
            meta.get("resourceVersion") or "",
        )
    metadata = cast(ObjectMeta, item.metadata)
    return Identity(metadata.namespace, metadata.name, metadata.uid, metadata.resource_version)


def reference_to(item: Any, *, kind: str, api_version: str = "v1") -> ObjectRef:
    """An ObjectRef to `item`; list items carry no kind of their own, so it is named."""
    identity = identity_of(item)
    return ObjectRef(
        api_version=api_version,
        kind=kind,
        namespace=identity.namespace,
        name=identity.name,
        uid=identity.uid,
        resource_version=identity.resource_version,
    )
