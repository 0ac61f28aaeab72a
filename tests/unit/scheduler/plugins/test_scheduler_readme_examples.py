"""The plugins scheduler/README.md shows: each is the file it stands for, with its one registry line, and works."""

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from scheduler.plugins import registry
from tests.builders.scheduler_objects import World, a_node, a_pod

README = Path(registry.__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def _example(name: str) -> Any:
    (source,) = (block for block in BLOCK.findall(README.read_text()) if f"class {name}" in block)
    module = ModuleType(name.lower())
    exec(compile(source, f"{README}:{name}", "exec"), module.__dict__)
    return getattr(module, name)


def test_the_score_takes_nodes_that_are_to_be_serviced_last(monkeypatch: pytest.MonkeyPatch) -> None:
    servicing = _example("Servicing")
    hours = "example.com/service-in-hours"
    nodes = [a_node("a", labels={hours: "2"}), a_node("b"), a_node("c", labels={hours: "20"})]

    def order() -> list[str]:
        world = World()
        world.nodes(*nodes)
        # One pod a node: each takes all of it.
        placed = []
        for name in ("p", "q", "r"):
            world.pods(a_pod(name).asks(cpu="8"))
            placed.append(world.binds()[name])
        return placed

    assert order() == ["a", "b", "c"]
    # In place of balance, whose weight it takes over here; otherwise it needs one of its own in `Weights`.
    monkeypatch.setitem(registry.SCORES, "balance", lambda settings, weights: servicing())
    assert order() == ["b", "c", "a"]


def test_the_filter_keeps_gpu_pods_off_until_the_label_says_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "FILTERS", (*registry.FILTERS, _example("BurnIn")))
    label = "example.com/burn-in"
    world = World()
    world.nodes(a_node("new", gpus=8), a_node("failed", gpus=8, labels={label: "failed"}))
    world.pods(a_pod("gpu").gpus(1))
    assert world.message().startswith("0/2 nodes are available: 2 node(s) had not passed their burn-in.")
    world.pods(a_pod("cpu"))
    assert set(world.binds()) == {"cpu"}
    # The label alone is worth another try.
    world.nodes(a_node("new", gpus=8, labels={label: "passed"}))
    world.tick(2.0)
    assert world.binds() == {"gpu": "new"}
