"""The open-mode table against the kernel's own rules, as a state machine."""

from hypothesis import given
from hypothesis import strategies as st

from fuse.core.open_modes import BackingKey, Choice, OpenModes


class Kernel:
    """fs/fuse/iomode.c in a few lines: refuses what the kernel answers with EIO."""

    def __init__(self) -> None:
        self.cached = self.writing = 0
        self.backing: list[int] = []

    def open(self, choice: Choice, backing_id: int) -> None:
        if choice is Choice.CACHED:
            assert not self.backing, "EIO: cached open beside passthrough"
            assert not self.writing, "pages beside writes that pass them by"
            self.cached += 1
        elif choice is Choice.PASSTHROUGH:
            assert not self.cached, "EIO: passthrough open beside cached"
            assert all(each == backing_id for each in self.backing), "EIO: two backing files"
            self.backing.append(backing_id)
        elif choice is Choice.WRITE:
            assert not self.cached, "writes past the pages others read"
            self.writing += 1

    def release(self, choice: Choice) -> None:
        if choice is Choice.CACHED:
            self.cached -= 1
        elif choice is Choice.PASSTHROUGH:
            self.backing.pop()
        elif choice is Choice.WRITE:
            self.writing -= 1


KEYS: list[BackingKey | None] = [None, (1, 1), (1, 2)]


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["open", "write", "release"]), st.sampled_from(KEYS))))
def test_no_choice_is_ever_refused_by_the_kernel_and_every_id_is_closed_once(
    steps: list[tuple[int, str, BackingKey | None]],
) -> None:
    modes, kernels = OpenModes(), [Kernel(), Kernel()]
    handles: list[tuple[int, Choice]] = []
    registered: set[int] = set()
    next_id = 1

    def release(inode: int, choice: Choice) -> None:
        kernels[inode].release(choice)  # the kernel lets go before it tells us
        closed = modes.released(inode, choice)
        if closed:
            assert not kernels[inode].backing
            registered.remove(closed)

    for inode, action, key in steps:
        if action == "release":
            if handles:
                release(*handles.pop(0))
            continue
        choice, backing_id = modes.choose(inode, key, only_writes=action == "write"), modes.backing_id(inode)
        if choice is Choice.REGISTER:
            assert key is not None
            choice, backing_id = Choice.PASSTHROUGH, next_id
            registered.add(next_id)
            next_id += 1
        if choice is Choice.PASSTHROUGH:
            modes.opened_passthrough(inode, backing_id, key or modes.key(inode) or (0, 0))
        elif choice is Choice.CACHED:
            modes.opened_cached(inode)
        elif choice is Choice.WRITE:
            modes.opened_for_writing(inode)
        kernels[inode].open(choice, backing_id)
        handles.append((inode, choice))
    while handles:
        release(*handles.pop())
    assert not registered
    assert len(modes) == 0
