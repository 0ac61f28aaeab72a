"""What plugins say of one row in plain numbers is what they say in arrays, to the last bit."""

from hypothesis import given
from hypothesis import strategies as st

from scheduler.core.plugin import row_filter, row_score
from scheduler.plugins.base import ALL
from scheduler.plugins.registry import FILTERS, SCORES
from scheduler.settings import Settings, Weights
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_node, a_pod

# cpu in cores, memory in MiB, GPUs
node = st.tuples(st.integers(0, 7), st.integers(0, 4096), st.integers(0, 8))
pod = st.tuples(st.integers(0, 3), st.integers(0, 1000), st.integers(0, 8))
cached = st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 900), st.integers(0, 900)), max_size=4)


@given(st.lists(node, min_size=1, max_size=6), st.lists(pod, max_size=10), pod, cached, st.booleans())
def test_a_row_alone_is_judged_as_among_all(
    nodes: list[tuple[int, int, int]],
    others: list[tuple[int, int, int]],
    asked: tuple[int, int, int],
    caches: dict[int, tuple[int, int]],
    reads: bool,
) -> None:
    world = World()
    world.nodes(
        *(
            a_node(f"n{index}", cpu=str(cpu), memory=f"{memory}Mi", gpus=gpus)
            for index, (cpu, memory, gpus) in enumerate(nodes)
        )
    )
    world.datasets(a_dataset("d", 900 * MIB, files=7))
    world.caches(
        *(
            a_cache(f"n{index}", ssd={"d": resident * MIB}, room=room * MIB)
            for index, (resident, room) in caches.items()
            if index < len(nodes)
        )
    )
    for index, (cpu, memory, gpus) in enumerate(others):
        built = a_pod(f"p{index}").asks(cpu=str(cpu), memory=f"{memory}Mi").gpus(gpus).host_port(80 + index % 2)
        world.pods(built)
    world.decide()
    cpu, memory, gpus = asked
    built = a_pod("last").asks(cpu=str(cpu), memory=f"{memory}Mi").gpus(gpus).host_port(80)
    world.pods(built.reads('[{"name":"d"}]') if reads else built)
    state = world.engine.state
    request = state.resolved(state.pods[built.uid].request)
    state.table.vector(request.shape.requests)
    view = state.view()
    for factory in FILTERS:
        plugin = factory()
        passed = plugin.filter(view, request, ALL)
        one = row_filter(plugin)
        for row in range(view.size):
            assert one(view, request, row) == (passed is None or bool(passed[row])), plugin.name
    for name, make in SCORES.items():
        score = make(Settings(), Weights())
        costs = score.score(view, request, ALL)
        alone = row_score(score)
        for row in range(view.size):
            assert alone(view, request, row) == (None if costs is None else float(costs[row])), name


def test_scores_that_follow_usage_have_a_quick_way() -> None:
    quick = {name for name, make in SCORES.items() if hasattr(make(Settings(), Weights()), "score_row")}
    assert quick == {"cache_room", "gpu_fit", "balance"}
