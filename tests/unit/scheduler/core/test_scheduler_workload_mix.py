"""What GPU pods typically ask for."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.workload_mix import CHANGED_PODS, WorkloadMix

GPU = "nvidia.com/gpu"
pods = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2)), max_size=40)


def _asked(cpu: int, gpus: int) -> tuple[tuple[str, int], ...]:
    return (("cpu", cpu), ("memory", 1), (GPU, gpus))


def test_pods_without_gpus_do_not_count() -> None:
    mix = WorkloadMix()
    mix.seen("a", (("cpu", 1),))
    assert not mix.is_known
    assert mix.version == 0


def test_the_first_pod_and_the_last_are_noticed_at_once() -> None:
    mix = WorkloadMix()
    mix.seen("a", _asked(1, 8))
    assert mix.kinds() == (((1, 1, 8), 1.0),)
    mix.gone("a")
    assert not mix.is_known


def test_a_few_pods_more_change_nothing() -> None:
    mix = WorkloadMix()
    for index in range(1000):
        mix.seen(f"p{index}", _asked(1, 1))
    version = mix.version
    for index in range(CHANGED_PODS):
        mix.gone(f"p{index}")
    assert mix.version == version


@given(pods, st.sets(st.integers(0, 39)))
def test_shares_are_of_the_pods_there(asked: list[tuple[int, int]], gone: set[int]) -> None:
    mix = WorkloadMix()
    for index, one in enumerate(asked):
        mix.seen(f"p{index}", _asked(*one))
        mix.seen(f"p{index}", _asked(*one))
    for index in gone:
        mix.gone(f"p{index}")
    mix._take()
    left = [one for index, one in enumerate(asked) if index not in gone]
    expected = {(cpu, 1, gpus): left.count((cpu, gpus)) / len(left) for cpu, gpus in set(left)}
    assert {kind: round(share, 9) for kind, share in mix.kinds()} == {
        kind: round(share, 9) for kind, share in expected.items()
    }
