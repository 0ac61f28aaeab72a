"""Which files are fetched whole: names of weights, and readers who jump; never who reads on."""

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.core.weights import BACK_BLOCKS, FILES_MAX, JUMPS, WeightLike


@given(st.lists(st.integers(0, 8), min_size=1, max_size=100))
def test_who_reads_on_is_no_reader_of_weights(aheads: list[int]) -> None:
    """The mount asks for some blocks ahead, each by itself, and then for those the reader comes to."""
    reads = WeightLike()
    asked = 0
    for block, ahead in enumerate(aheads):
        assert not reads.read("f", "train/shard.tar", block, block)
        for next_block in range(max(asked, block + 1), block + ahead + 1):
            assert not reads.read("f", "train/shard.tar", next_block, next_block)
        asked = max(asked, block + ahead + 1)


@given(st.integers(JUMPS * (BACK_BLOCKS + 1), 1000))
def test_who_reads_backwards_is(blocks: int) -> None:
    reads = WeightLike()
    step = blocks // (JUMPS + 1)
    found = [reads.read("f", "model.bin", at, at) for at in range(blocks, 0, -max(step, BACK_BLOCKS + 1))]
    assert any(found)


def test_a_look_at_the_footer_and_one_place_more_fetches_nothing() -> None:
    reads = WeightLike()
    assert not reads.read("f", "table.parquet", 100, 100)
    assert not reads.read("f", "table.parquet", 0, 3)
    assert reads.read("f", "table.parquet", 50, 50), "the third jump"
    reads.forget("f")
    assert not reads.read("f", "table.parquet", 50, 50)


def test_names_of_weights_are_enough_and_what_is_remembered_is_bounded() -> None:
    reads = WeightLike()
    assert reads.read("f", "llm/model-00001-of-00002.safetensors", 0, 0)
    assert reads.read("g", "step-10/rank0.pt", 0, 0)
    for number in range(FILES_MAX + 10):
        assert not reads.read(str(number), "a.bin", 0, 0)
    assert len(reads._files) == FILES_MAX
