"""The event engine's model of a cache against a real worker, byte by byte; not how fast."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.io_model import JOB, measured
from simulations.io_model import TOLERANCE, Readers, bytes_apart, expected


@pytest.mark.timeout(120)
def test_a_reader_alone_gets_its_bytes_from_where_the_model_says() -> None:
    readers = Readers(1, 0.5, 16 * JOB.file_bytes, 3, 40e6, 40e6)
    with TemporaryDirectory(prefix="hr-") as name:
        real = measured(Path(name), readers)
    for ours, theirs in zip(expected(readers), real, strict=True):
        assert theirs.read_bytes == pytest.approx(readers.dataset_bytes)
        assert bytes_apart(ours, theirs) <= TOLERANCE
