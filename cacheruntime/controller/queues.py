"""Which Datasets and DataLoads are to be looked at, and who wakes whom.

Owns the two queues of keys. Does not look at anything. Invariant: what changes wakes all whose status or blocks follow
from it.
"""

from cacheruntime.controller.objects import Key, Objects
from kube.workqueue import WorkQueue


class Queues:
    """Keys of Datasets and DataLoads that wait to be reconciled."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.datasets: WorkQueue[Key] = WorkQueue("datasets")
        self.loads: WorkQueue[Key] = WorkQueue("dataloads")

    def tell_who_shows(self, of: Key) -> None:
        """A Dataset changed, came or went: look at those that show it."""
        for key in self._objects.that_show(of):
            self.datasets.add(key)

    def tell_loads(self, of: Key) -> None:
        """A Dataset, or its snapshot, changed: look at its DataLoads."""
        for load in self._objects.loads_of(of):
            self.loads.add(load)

    def grants_changed(self, namespace: str) -> None:
        """Look at all that shows or loads something of a namespace from another one."""
        for key in self._objects.that_show_of(namespace):
            self.datasets.add(key)
        for load in self._objects.loads_from_elsewhere(namespace):
            self.loads.add(load)

    def pool_changed(self, runtime: Key) -> None:
        """Look at the Datasets that a CacheRuntime holds."""
        for key in self._objects.datasets_of(runtime):
            self.datasets.add(key)
