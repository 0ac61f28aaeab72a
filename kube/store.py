"""A keyed copy of the last seen objects, fed by kube/watch.py.

Owns the copy and the difference between it and a new list. Does not run handlers and does
no I/O. Invariants: after a Listed the store equals it; the changes handed out, applied in
order to an empty map, give the store; an object that was deleted and created again under
the same name (another uid) is a DELETED followed by an ADDED, never a MODIFIED; older
states of an object than the one held are ignored.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from kube.identity import identity_of
from kube.watch import Change, ChangeKind, Listed, WatchBatch

T = TypeVar("T")
Key = tuple[str, str]  # namespace ("" for cluster-scoped kinds), name


class Store(Generic[T]):
    """Objects by (namespace, name). One writer; not thread-safe."""

    def __init__(self) -> None:
        self._objects: dict[Key, T] = {}
        self.is_synced = False  # True once a Listed was applied

    def apply(self, batch: WatchBatch[T]) -> list[Change[T]]:
        """Take a batch and return what really changed, in order, made-up deletes included."""
        if isinstance(batch, Listed):
            changes = self._replace_all(batch.objects)
            self.is_synced = True
            return changes
        changes = []
        for event in batch.events:
            if event.kind is ChangeKind.DELETED:
                self._delete(event.object, changes)
            else:
                self._put(event.object, changes)
        return changes

    def get(self, namespace: str | None, name: str) -> T | None:
        """The object last seen under that name, or None."""
        return self._objects.get((namespace or "", name))

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[T]:
        return iter(self._objects.values())

    def __contains__(self, key: Key) -> bool:
        return key in self._objects

    def _replace_all(self, objects: list[T]) -> list[Change[T]]:
        changes: list[Change[T]] = []
        listed = {(identity.namespace, identity.name) for identity in map(identity_of, objects)}
        for key in [key for key in self._objects if key not in listed]:
            changes.append(Change(ChangeKind.DELETED, self._objects.pop(key)))
        for item in objects:
            self._put(item, changes, is_listed=True)
        return changes

    def _put(self, item: T, changes: list[Change[T]], *, is_listed: bool = False) -> None:
        new = identity_of(item)
        key = (new.namespace, new.name)
        held = self._objects.get(key)
        if held is None:
            self._objects[key] = item
            changes.append(Change(ChangeKind.ADDED, item))
            return
        old = identity_of(held)
        if old.uid == new.uid and old.resource_version == new.resource_version:
            return
        # A list is always believed; a watch may repeat what came before.
        if not is_listed and _is_older(new.resource_version, old.resource_version):
            return
        self._objects[key] = item
        if old.uid != new.uid:
            changes.append(Change(ChangeKind.DELETED, held))
            changes.append(Change(ChangeKind.ADDED, item))
        else:
            changes.append(Change(ChangeKind.MODIFIED, item))

    def _delete(self, item: T, changes: list[Change[T]]) -> None:
        gone = identity_of(item)
        key = (gone.namespace, gone.name)
        held = self._objects.get(key)
        if held is None:
            return
        old = identity_of(held)
        if old.uid != gone.uid or _is_older(gone.resource_version, old.resource_version):
            return
        del self._objects[key]
        changes.append(Change(ChangeKind.DELETED, item))


def _is_older(version: str, than: str) -> bool:
    """Compare resourceVersions; Kubernetes 1.35 made their order as integers official."""
    if version.isdecimal() and than.isdecimal():
        return int(version) < int(than)
    return False
