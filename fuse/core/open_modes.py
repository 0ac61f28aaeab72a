"""How each open of an inode reaches its bytes: through our pages, or past us on a backing file.

Owns the choice and the counts. The kernel's rules (fs/fuse/iomode.c, Linux 6.9 and later), broken with EIO:
- an inode is open in cached mode or by passthrough, never both at a time;
- all passthrough opens of an inode are on one backing id.

            ┌── whole, nothing open ──▶ PASSTHROUGH (register, then the same id) ──last release──▶ idle
    idle ───┤
            └── else ─────────────────▶ CACHED (also when the file became whole) ──last release──▶ idle

Opens that only write go past the page cache: their bytes would be copied into fresh pages that nobody reads. What the
daemon has and what pages have must not be mixed, so while such an open is there all others of the inode go past the
page cache too, and beside cached ones there is none.

Opens that share a light handle (handles.py) are not counted here; beside them no other open goes by passthrough.

Invariants: the counts are never below the kernel's, because it counts an open when our answer arrives and a
release before it tells us; so what is chosen by them is never refused. A backing id lives exactly as long as
its inode has passthrough opens: an evicted file's room comes back with its last reader.
"""

from enum import Enum

BackingKey = tuple[int, int]
"""Device and inode number of the file behind: the same bytes fetched again are another file."""


class Choice(Enum):
    """How to answer an open."""

    CACHED = "cached"
    PASSTHROUGH = "passthrough"
    REGISTER = "register"
    """By passthrough, on a backing id that is to be made."""
    DIRECT = "direct"
    """Past the page cache, through the daemon: allowed beside passthrough whatever the file behind."""
    WRITE = "write"
    """As DIRECT, of an open that only writes: it keeps others from cached mode."""


class _Inode:
    __slots__ = ("backing_id", "cached", "key", "passthrough", "writing")

    def __init__(self) -> None:
        self.cached = 0
        self.writing = 0
        self.passthrough = 0
        self.backing_id = 0
        self.key: BackingKey | None = None


class OpenModes:
    """The modes of every open inode of one mount."""

    def __init__(self) -> None:
        self._inodes: dict[int, _Inode] = {}

    def __len__(self) -> int:
        return len(self._inodes)

    def choose(self, inode: int, key: BackingKey | None, *, only_writes: bool = False) -> Choice:
        """Return how an open may be answered now. `key` names the whole file behind, None = not whole."""
        state = self._inodes.get(inode)
        if only_writes and (state is None or state.writing):
            return Choice.WRITE
        if state is None:
            return Choice.CACHED if key is None else Choice.REGISTER
        if state.cached:
            return Choice.CACHED
        if state.writing:
            return Choice.DIRECT
        return Choice.PASSTHROUGH if key is None or key == state.key else Choice.DIRECT

    def backing_id(self, inode: int) -> int:
        """Return the id passthrough opens of the inode are on; 0 when there are none."""
        state = self._inodes.get(inode)
        return state.backing_id if state is not None else 0

    def is_idle(self, inode: int) -> bool:
        """Whether no counted open of the inode is there."""
        return inode not in self._inodes

    def is_passthrough(self, inode: int) -> bool:
        """Whether the inode is open by passthrough now."""
        return bool(self.backing_id(inode))

    def opened_cached(self, inode: int) -> None:
        """An open was answered in cached mode."""
        state = self._inodes.get(inode)
        if state is None:
            state = self._inodes[inode] = _Inode()
        state.cached += 1

    def opened_for_writing(self, inode: int) -> None:
        """An open that only writes was answered past the page cache."""
        self._inodes.setdefault(inode, _Inode()).writing += 1

    def opened_passthrough(self, inode: int, backing_id: int, key: BackingKey) -> None:
        """An open was answered by passthrough on `backing_id`."""
        state = self._inodes.setdefault(inode, _Inode())
        state.passthrough += 1
        state.backing_id, state.key = backing_id, key

    def key(self, inode: int) -> BackingKey | None:
        """Return the file behind the inode's passthrough opens."""
        state = self._inodes.get(inode)
        return state.key if state is not None else None

    def released(self, inode: int, choice: Choice) -> int:
        """One open ended. Return the backing id to close, 0 when it is still needed or there is none."""
        state = self._inodes.get(inode)
        if state is None or choice is Choice.DIRECT:
            return 0
        if choice is Choice.CACHED:
            state.cached -= 1
        elif choice is Choice.WRITE:
            state.writing -= 1
        else:
            state.passthrough -= 1
        if state.cached or state.passthrough or state.writing:
            return 0
        del self._inodes[inode]
        return state.backing_id
