"""gpu_fit: leave no GPU stranded, and keep pods without GPUs off GPU nodes, softly."""

import numpy as np

from api import names
from scheduler.plugins.base import ClusterView, DependsOn, FloatArray, PodRequest, Rows

# cpu and memory: what a leftover GPU needs to be of use.
COMPANIONS = (0, 1)


class GpuFit:
    """Half the cost is GPUs left over on the node (best fit keeps whole nodes for big jobs), half is leftover
    GPUs without their share of cpu and memory. A pod without GPUs costs the full scale on a GPU node."""

    name = "gpu_fit"
    unit = "share of the node's GPUs"
    depends_on = DependsOn.USAGE

    def score(self, view: ClusterView, pod: PodRequest, rows: Rows) -> FloatArray | None:
        """Cost between 0 and 1."""
        column = view.resource(names.GPU_RESOURCE)
        if column is None:
            return None
        gpus = view.allocatable[rows, column].astype(np.float64)
        asked = pod.shape.gpus
        if not asked:
            return (gpus > 0).astype(np.float64)
        whole = np.maximum(gpus, 1.0)
        left = np.maximum(gpus - view.requested[rows, column] - asked, 0.0)
        usable = left
        for companion in COMPANIONS:
            allocatable = view.allocatable[rows, companion].astype(np.float64)
            taken = view.requested[rows, companion] + view.table.vector(pod.shape.requests)[companion]
            free_share = np.clip(1.0 - taken / np.maximum(allocatable, 1.0), 0.0, 1.0)
            usable = np.minimum(usable, np.floor(free_share * gpus + 1e-9))
        return np.asarray(0.5 * left / whole + 0.5 * (left - usable) / whole)

    def full_scale(self, view: ClusterView, pod: PodRequest) -> float:
        """All of the node's GPUs."""
        return 1.0
