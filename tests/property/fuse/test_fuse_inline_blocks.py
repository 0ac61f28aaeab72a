"""Properties of the blocks a mount was sent: the budget holds, no byte is another block's, no memory is lost."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fuse.client.inline_blocks import READ_KEPT, InlineBlocks
from fuse.core.read_plan import BLOCK_BYTES

FILES = 3
BUDGET_BLOCKS = 5
LENGTHS = st.sampled_from([BLOCK_BYTES, 4096])
MARK_BYTES = 8


class Mount(RuleBasedStateMachine):
    """Several files are read ahead, waited for, read and closed, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.all = InlineBlocks(BUDGET_BLOCKS * BLOCK_BYTES)
        self.files = [self.all.file() for _ in range(FILES)]
        self.expected: list[tuple[int, int, memoryview]] = []
        self.lengths: dict[tuple[int, int], int] = {}
        self.now = 0.0

    def _arrive(self, file: int, block: int, memory: memoryview, *, is_ahead: bool) -> None:
        memory[:MARK_BYTES] = _mark(file, block)
        if block not in self.files[file]:
            self.lengths[file, block] = len(memory)
        self.files[file].arrived(block, memory, self.now, is_ahead=is_ahead)
        assert block in self.files[file], "what has just come can be read"

    @rule(file=st.integers(0, FILES - 1), block=st.integers(0, 20), length=LENGTHS)
    def ask_ahead(self, file: int, block: int, length: int) -> None:
        if self.files[file].has_room(length, self.now):
            self.expected.append((file, block, self.all.take(length)))
            assert self.all.taken_bytes <= BUDGET_BLOCKS * BLOCK_BYTES

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), fails=st.booleans())
    def answer(self, data: st.DataObject, fails: bool) -> None:
        file, block, memory = self.expected.pop(data.draw(st.integers(0, len(self.expected) - 1)))
        if fails:
            self.all.lose(len(memory))
        else:
            self._arrive(file, block, memory, is_ahead=True)

    @rule(file=st.integers(0, FILES - 1), block=st.integers(0, 20), length=LENGTHS)
    def wait_for(self, file: int, block: int, length: int) -> None:
        self._arrive(file, block, self.all.take(length), is_ahead=False)

    @rule(file=st.integers(0, FILES - 1), block=st.integers(0, 20))
    def read(self, file: int, block: int) -> None:
        if block not in self.files[file]:
            assert self.files[file].piece(block * BLOCK_BYTES, 1, self.now) is None
            return
        length = self.lengths[file, block]
        whole = self.files[file].piece(block * BLOCK_BYTES, length, self.now)
        assert whole is not None and len(whole) == length
        assert whole[:MARK_BYTES] == _mark(file, block)
        assert self.files[file].piece(block * BLOCK_BYTES, length + 1, self.now) is None

    @rule(file=st.integers(0, FILES - 1))
    def close(self, file: int) -> None:
        self.files[file].clear()
        assert len(self.files[file]) == 0

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def no_memory_is_lost(self) -> None:
        held = sum(
            self.lengths[number, block]
            for number, file in enumerate(self.files)
            for block in range(21)
            if block in file
        )
        assert self.all.taken_bytes == held + sum(len(memory) for _, _, memory in self.expected)

    def teardown(self) -> None:
        for file in self.files:
            file.clear()
        assert self.all.taken_bytes == sum(len(memory) for _, _, memory in self.expected)


def _mark(file: int, block: int) -> bytes:
    return file.to_bytes(4) + block.to_bytes(4)


TestMount = Mount.TestCase
TestMount.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_of_blocks_that_were_read_only_the_last_few_stay(order: list[int]) -> None:
    blocks = InlineBlocks()
    file = blocks.file()
    for block in order:
        if block not in file:
            assert file.has_room(4096, 0.0)
            file.arrived(block, blocks.take(4096), 0.0, is_ahead=True)
        assert file.piece(block * BLOCK_BYTES, 4096, 0.0) is not None
        assert len(file) <= READ_KEPT + 1
