"""The engine's own account of room: GPUs in use as pods and nodes come and go."""

import numpy as np

from simulations.engine.ledger import Ledger
from simulations.engine.model import NodeSpec


def test_gpus_are_those_of_nodes_that_are_there() -> None:
    ledger = Ledger([NodeSpec(f"n{index}", gpus, 1000, 1000, 0) for index, gpus in enumerate((8, 8, 0))])
    asks = np.array([3, 1, 1, 1], dtype=np.int64)
    ledger.bind("a", 0, asks, 0.0)
    ledger.bind("b", 0, np.array([5, 1, 1, 1], dtype=np.int64), 0.0)
    ledger.bind("c", 1, asks, 0.0)
    ledger.bind("d", 2, np.array([0, 1, 1, 1], dtype=np.int64), 0.0)
    assert ledger.gpus() == (11, 16, 1, 2)
    ledger.set_up(0, is_up=False)
    ledger.set_up(0, is_up=False)
    assert ledger.gpus() == (3, 8, 1, 1)
    ledger.free_up("a")
    assert ledger.gpus() == (3, 8, 1, 1)
    ledger.set_up(0, is_up=True)
    assert ledger.gpus() == (8, 16, 2, 2)
    ledger.free_up("b")
    ledger.free_up("c")
    assert ledger.gpus() == (0, 16, 0, 2)
