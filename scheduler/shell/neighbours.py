"""What tells which pods belong together: namespaces' labels, Services and controllers, decoded as little as needed.

Owns the slim types and their events. A cluster has tens of thousands of ReplicaSets whose status changes all the
time: only names and selectors are decoded, and the core ignores a change that leaves the selector as it was.
"""

from typing import Any

import msgspec

from kube.identity import Object
from kube.resources import REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS, Resource
from scheduler.core import events


class SlimMeta(Object, frozen=True):
    """Identity and version; labels are read of namespaces only."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class LabelledMeta(Object, frozen=True):
    """Identity, version and labels."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}  # noqa: RUF012  (msgspec copies an empty default)


class Namespace(Object, frozen=True):
    """A namespace's labels."""

    metadata: LabelledMeta = msgspec.field(default_factory=LabelledMeta)


class SelectorSpec(Object, frozen=True):
    """The selector as written: a map of labels, or a LabelSelector."""

    selector: dict[str, Any] | None = None


class Selecting(Object, frozen=True):
    """A Service or a controller."""

    metadata: SlimMeta = msgspec.field(default_factory=SlimMeta)
    spec: SelectorSpec = msgspec.field(default_factory=SelectorSpec)


class DeviceClassSpec(Object, frozen=True):
    """The extended resource a class stands behind, if any."""

    extended_resource_name: str | None = None


class DeviceClass(Object, frozen=True):
    """A class of devices that dynamic resource allocation gives out."""

    metadata: SlimMeta = msgspec.field(default_factory=SlimMeta)
    spec: DeviceClassSpec = msgspec.field(default_factory=DeviceClassSpec)


CONTROLLERS: tuple[Resource, ...] = (REPLICATION_CONTROLLERS, REPLICA_SETS, STATEFUL_SETS)


def device_class_changed(item: DeviceClass) -> events.DeviceClassChanged:
    """A device class's new state."""
    return events.DeviceClassChanged(item.metadata.name, item.spec.extended_resource_name or "")


def namespace_changed(item: Namespace) -> events.NamespaceChanged:
    """A namespace's new state."""
    return events.NamespaceChanged(item.metadata.name, item.metadata.labels)


def service_changed(item: Selecting) -> events.ServiceChanged:
    """A Service's new state."""
    return events.ServiceChanged(item.metadata.namespace, item.metadata.name, item.spec.selector)


def controller_changed(kind: str, item: Selecting) -> events.ControllerChanged:
    """A controller's new state."""
    return events.ControllerChanged(kind, item.metadata.namespace, item.metadata.name, item.spec.selector)
