"""Resources that only dynamic resource allocation can give: refused by name, never bound wrongly.

Owns which extended resources DeviceClasses stand behind. Does not allocate devices. A node may still offer such a
resource through a device plugin, in its allocatable; there the pod needs no claim, and is placed as always. Rules:
k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache, KEP 5004.
"""

from collections.abc import Callable, Iterable

from scheduler.core.requests import IMPLICIT_PREFIX


class DeviceClasses:
    """Device classes as last seen. One writer."""

    def __init__(self) -> None:
        self._resource_of: dict[str, str] = {}  # class -> extended resource, "" for none
        self._classes_of: dict[str, set[str]] = {}

    def put(self, name: str, resource: str) -> bool:
        """Take a class; returns whether anything changed."""
        if self._resource_of.get(name) == resource:
            return False
        self.remove(name)
        self._resource_of[name] = resource
        if resource:
            self._classes_of.setdefault(resource, set()).add(name)
        return True

    def remove(self, name: str) -> bool:
        """A class was deleted; returns whether it was known."""
        resource = self._resource_of.pop(name, None)
        if resource:
            classes = self._classes_of[resource]
            classes.discard(name)
            if not classes:
                del self._classes_of[resource]
        return resource is not None

    def refusal(self, asked: Iterable[tuple[str, int]], is_offered: Callable[[str], bool]) -> str | None:
        """Why a pod asking for these amounts is refused; None when it is not. `is_offered`: whether some node has the
        resource in its allocatable."""
        for resource, amount in asked:
            if not amount:
                continue
            if resource.startswith(IMPLICIT_PREFIX):
                behind = resource.removeprefix(IMPLICIT_PREFIX)
            elif resource in self._classes_of:
                behind = min(self._classes_of[resource])
            else:
                continue
            if is_offered(resource):
                continue
            return (
                f"{resource} is offered through DeviceClass {behind} only, and this scheduler does not allocate "
                "devices (resource.k8s.io); use schedulerName default-scheduler"
            )
        return None

    def __len__(self) -> int:
        return len(self._resource_of)
