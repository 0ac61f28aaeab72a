"""Training jobs as a storage sees them: threads that read samples ahead, and an accelerator that only takes time.

Owns the workloads (DLIO's parameters, as MLPerf Storage has them for an H100, sizes divided by `scale`) and the loop.
A batch is taken when it is complete and then costs `batch_seconds`; reading goes on meanwhile, as far as the queue
lets it. Where samples come from is a `Source`.
"""

import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

READERS: Final = 4
BATCHES_AHEAD: Final = 2
SAMPLES_AHEAD_MIN: Final = 16
TAKE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Workload:
    """One model; a file holds `samples_a_file`, which are read in order, and files come in a new order each epoch."""

    name: str
    dlio_sample_bytes: int
    scale: int
    samples_a_file: int
    batch: int
    batch_seconds: float

    @property
    def sample_bytes(self) -> int:
        """A scaled sample."""
        return self.dlio_sample_bytes // self.scale

    @property
    def file_bytes(self) -> int:
        """A scaled file."""
        return self.sample_bytes * self.samples_a_file

    def files(self, dataset_bytes: int) -> int:
        """How many files make a dataset of about that size."""
        return max(1, dataset_bytes // self.file_bytes)

    def compute_seconds(self, files: int) -> float:
        """What an epoch costs the accelerator."""
        return files * self.samples_a_file / self.batch * self.batch_seconds


# Scaled so that each accelerator wants about 50 MB/s. resnet50 has 1,251 samples a file; here an eighth of them.
WORKLOADS: Final = (
    Workload("unet3d", 146_600_628, 64, 1, 7, 0.323),
    Workload("resnet50", 114_660, 4, 156, 400, 0.224),
    Workload("cosmoflow", 2_828_486, 16, 1, 1, 0.0035),
)


class Source(Protocol):
    """Where samples come from; called by several threads."""

    def samples(self, path: str, sample_bytes: int) -> Iterator[int]:
        """Read a file sample by sample; yield each one's bytes."""
        ...


def epoch(workload: Workload, source: Source, paths: Sequence[str], seed: int) -> float:
    """Train one epoch; return its seconds."""
    order = list(paths)
    random.Random(seed).shuffle(order)
    ahead = max(SAMPLES_AHEAD_MIN, BATCHES_AHEAD * workload.batch)
    ready: queue.Queue[int | BaseException] = queue.Queue(ahead)
    pending = iter(order)
    lock = threading.Lock()

    def read() -> None:
        try:
            while True:
                with lock:
                    path = next(pending, None)
                if path is None:
                    return
                for count in source.samples(path, workload.sample_bytes):
                    ready.put(count)
        except BaseException as error:
            ready.put(error)
            raise

    threads = [threading.Thread(target=read, daemon=True) for _ in range(READERS)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    left = len(order) * workload.samples_a_file
    while left:
        size = min(workload.batch, left)
        for _ in range(size):
            took = ready.get(timeout=TAKE_SECONDS)
            if isinstance(took, BaseException):
                raise RuntimeError("a reader failed") from took
            assert took == workload.sample_bytes, f"a sample of {took} bytes, not {workload.sample_bytes}"
        time.sleep(workload.batch_seconds * size / workload.batch)
        left -= size
    seconds = time.perf_counter() - started
    for thread in threads:
        thread.join()
    return seconds
