"""The benchmarks by name: one line each. Modules are imported when they run, so that one's needs are its own."""

from typing import Final

BENCHMARKS: Final[dict[str, tuple[str, str]]] = {
    "byte-plane": ("benchmarks.byte_plane", "the worker's byte plane against a bare sendfile loop"),
    "fuse": ("benchmarks.fuse", "the FUSE mount against ext4, cp and a direct put"),
    "gpu-allocation": ("benchmarks.gpu_allocation", "GPUs that can be given away before pods stop fitting"),
    "metadata": ("benchmarks.metadata", "the metadata store: listing rate, lookup times, opening again"),
    "scheduler": ("benchmarks.scheduler", "pods placed a second, against kube-scheduler"),
    "simulations": ("benchmarks.simulations", "what placement by data saves, in simulated clusters"),
}
"""Name → module, and what it measures."""
