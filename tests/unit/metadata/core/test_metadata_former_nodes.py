"""Which nodes could keep a dataset before they changed last: what is cached there is asked for first."""

from dataclasses import replace

from metadata.core.datasets import EVERY_NODE, Mount, Specification, with_specification
from metadata.shell import convert

ALL = Specification("u", "ns", "n", (Mount("file:///x"),))


def test_the_nodes_before_the_last_change_stay_known_until_the_next() -> None:
    record = with_specification(None, ALL)
    assert record.specification.former_nodes == ()
    seen = []
    for nodes in (("a", "b"), ("a", "b"), ("a",), (), ("b",)):
        record = with_specification(record, replace(ALL, eligible_nodes=nodes))
        seen.append(record.specification.former_nodes)
    assert seen == [EVERY_NODE, EVERY_NODE, ("a", "b"), ("a",), EVERY_NODE]
    assert list(convert.dataset_message(record).former_nodes) == ["*"]
    again = with_specification(record, replace(ALL, eligible_nodes=("b",), writable=True))
    assert again.specification.former_nodes == EVERY_NODE, "another change is none of the nodes"
