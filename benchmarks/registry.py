"""The benchmarks by name: one line each. Modules are imported when they run, so that one's needs are its own."""

from typing import Final

BENCHMARKS: Final[dict[str, tuple[str, str]]] = {
    "byte-plane": ("benchmarks.byte_plane", "the worker's byte plane against a bare sendfile loop"),
    "checkpoint-reload": ("benchmarks.checkpoint_reload", "a checkpoint from the cache against a slow origin"),
    "cold-readers": ("benchmarks.cold_readers", "bytes that many readers of one cold dataset cost its origin"),
    "datasets": ("benchmarks.datasets", "many Datasets: how soon one is bound, what the controller costs"),
    "epochs": ("benchmarks.epochs", "accelerator utilisation by the cached fraction, against LRU and no cache"),
    "extender": ("benchmarks.extender", "the scheduler extender: an answer, and how long it holds the loop that binds"),
    "fuse": ("benchmarks.fuse", "the FUSE mount against ext4, cp and a direct put"),
    "gpu-allocation": ("benchmarks.gpu_allocation", "GPUs that can be given away before pods stop fitting"),
    "io-model": ("benchmarks.io_model", "the simulator's model of the cache, against real workers"),
    "jobs": ("benchmarks.jobs", "jobs reconciled a second and pods of one job, against Kubernetes' Indexed Job"),
    "metadata": ("benchmarks.metadata", "the metadata store: listing rate, lookup times, opening again"),
    "preheat": ("benchmarks.preheat", "a cold epoch over a distant origin, fetched ahead of its reader or not"),
    "preload": ("benchmarks.preload", "a load of a whole dataset against the origin's capped rate"),
    "scheduler": ("benchmarks.scheduler", "pods placed a second, against kube-scheduler"),
    "simulations": ("benchmarks.simulations", "what placement by data saves, in simulated clusters"),
    "trust": ("benchmarks.trust", "what tokens and TLS cost on the worker's byte plane"),
}
"""Name → module, and what it measures."""
