"""Random calls on two mounts and on a plain directory: the same answers, except those SEMANTICS.md declares."""

import itertools
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import HypothesisException
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from benchmarks.data_plane import Process
from tests.builders.both_backends import BLOCK_BYTES, BothBackends
from tests.exercise.twins import RENAME_NOREPLACE, Twins, tree
from tests.kills.campaign import end_daemon, serving_pids

pytestmark = pytest.mark.mount

PATHS = st.sampled_from(["a", "b", "é", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "."])
RAW = 0
DEADLINE_SECONDS = 60.0
NUMBERS = st.integers(0, 7)
SIZES = st.sampled_from([0, 1, 7, 4095, 4096, 4097, 30_000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 150_000])
OFFSETS = st.one_of(SIZES, st.integers(0, 200_000))
MODES = st.sampled_from([0o644, 0o600, 0o755, 0o400])
ACCESS = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT])
MORE_FLAGS = st.sets(
    st.sampled_from([os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_DIRECTORY, os.O_NOFOLLOW]), max_size=2
)
DATA = st.builds(lambda size, first: bytes((first + i) % 251 for i in range(size)), SIZES, st.integers(0, 250))


class Beside(RuleBasedStateMachine):
    """A step is a call on both sides; the mount changes now and then, and shows what was closed on the other."""

    site: BothBackends
    plain: Path
    stories: list[str]
    """What was found, in order."""
    dead = 0
    """Daemons of the raw mount that were killed."""
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.name = f"example-{next(self.numbers)}"
        (self.plain / self.name).mkdir()
        (self.site.mounts[0] / self.name).mkdir()
        self.twins = Twins(
            [mount / self.name for mount in self.site.mounts], self.plain / self.name, told=self.stories.append
        )

    def teardown(self) -> None:
        try:
            self.twins.agree()
            self.stored()
        finally:
            self.twins.let_go()

    def stored(self) -> None:
        """The under store has the same files, with the same bytes."""
        wanted = {path: content[1] for path, content in tree(self.twins.plain).items() if isinstance(content, tuple)}
        found = tree(self.site.origin / self.name)
        stored = {path: content[1] for path, content in found.items() if isinstance(content, tuple)}
        if stored != wanted:
            wrong = sorted(path for path in stored.keys() | wanted.keys() if stored.get(path) != wanted.get(path))
            self.stories.append(f"{wrong} are others in the under store, after {self.twins.calls}")
            raise AssertionError(self.stories[-1])

    @initialize(data=DATA)
    def fill(self, data: bytes) -> None:
        for directory in ("d", "d/e"):
            self.twins.mkdir(directory, 0o755)
        for path in ("a", "d/a"):
            self.twins.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            self.twins.write(-1, data)
        self.twins.close(0)

    @rule(path=PATHS, access=ACCESS, more=MORE_FLAGS, mode=MODES)
    def open(self, path: str, access: int, more: set[int], mode: int) -> None:
        self.twins.open(path, access | sum(more - {access & os.O_CREAT}), mode)

    @rule(path=PATHS)
    def create(self, path: str) -> None:
        self.twins.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    @rule(path=PATHS, other=PATHS)
    def rename(self, path: str, other: str) -> None:
        self.twins.rename(path, other)

    @rule(path=PATHS, other=PATHS)
    def rename_unless_there(self, path: str, other: str) -> None:
        self.twins.rename(path, other, RENAME_NOREPLACE)

    @rule(path=PATHS, mode=MODES)
    def mkdir(self, path: str, mode: int) -> None:
        self.twins.mkdir(path, mode)

    @rule(path=PATHS)
    def rmdir(self, path: str) -> None:
        self.twins.rmdir(path)

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        self.twins.unlink(path)

    @rule(path=PATHS, size=SIZES)
    def truncate(self, path: str, size: int) -> None:
        self.twins.truncate(path, size)

    @rule(path=PATHS, what=st.sampled_from([Twins.stat, Twins.names, Twins.whole, Twins.utime, Twins.readlink]))
    def look(self, path: str, what: object) -> None:
        what(self.twins, path)  # type: ignore[operator]

    @rule(path=PATHS, mode=MODES)
    def chmod(self, path: str, mode: int) -> None:
        self.twins.chmod(path, mode)

    @rule(path=PATHS, user=st.sampled_from([os.getuid(), 12345]))
    def chown(self, path: str, user: int) -> None:
        self.twins.chown(path, user)

    @rule(kind=st.sampled_from(["symlink", "link", "fifo"]), path=PATHS, other=PATHS)
    def link(self, kind: str, path: str, other: str) -> None:
        self.twins.link(kind, path, other)

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, offset=OFFSETS, data=DATA)
    def pwrite(self, number: int, offset: int, data: bytes) -> None:
        self.twins.pwrite(number, offset, data)

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, data=DATA)
    def write(self, number: int, data: bytes) -> None:
        self.twins.write(number, data)

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, offset=OFFSETS, length=SIZES, what=st.sampled_from([Twins.pread, Twins.mapped]))
    def read_at(self, number: int, offset: int, length: int, what: object) -> None:
        what(self.twins, number, offset, length)  # type: ignore[operator]

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, length=SIZES)
    def read(self, number: int, length: int) -> None:
        self.twins.read(number, length)

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, offset=OFFSETS, whence=st.sampled_from([os.SEEK_SET, os.SEEK_CUR, os.SEEK_END]))
    def seek(self, number: int, offset: int, whence: int) -> None:
        self.twins.seek(number, offset, whence)

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, size=SIZES)
    def ftruncate(self, number: int, size: int) -> None:
        self.twins.ftruncate(number, size)

    @precondition(lambda self: self.twins.pairs)
    @rule(
        number=NUMBERS,
        what=st.sampled_from(
            [
                Twins.close,
                Twins.close,
                Twins.fsync,
                Twins.fdatasync,
                Twins.fstat,
                Twins.duplicate_closed,
                Twins.names_at,
            ]
        ),
    )
    def by_descriptor(self, number: int, what: object) -> None:
        what(self.twins, number)  # type: ignore[operator]

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, name=st.sampled_from(["a", "e"]), what=st.sampled_from([Twins.open_at, Twins.mkdir_at]))
    def in_open_directory(self, number: int, name: str, what: object) -> None:
        what(self.twins, number, name)  # type: ignore[operator]

    @precondition(lambda self: self.twins.pairs)
    @rule(number=NUMBERS, mode=MODES)
    def fchmod(self, number: int, mode: int) -> None:
        self.twins.fchmod(number, mode)

    @rule()
    def switch(self) -> None:
        self.twins.switch()

    @precondition(lambda self: self.twins.active == RAW)
    @rule(is_served=st.booleans())
    def daemon_dies(self, is_served: bool) -> None:
        """SIGKILL: the next calls wait for its successor, or come when it serves."""
        keeper = self.site.plane.daemons["raw"]
        dead = self._serving(keeper, type(self).dead)
        self.twins.calls.append(f"death of daemon {dead}")
        end_daemon(keeper, "kill")
        type(self).dead = dead
        if is_served:
            self._serving(keeper, dead)

    @staticmethod
    def _serving(keeper: Process, dead: int) -> int:
        """Wait for one that follows the `dead`-th; return which it is."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while (serving := len(serving_pids(keeper))) <= dead:
            assert time.monotonic() < deadline, keeper.tail()
            time.sleep(0.01)
        return serving


def run(both_backends: BothBackends, place: Path, examples: int) -> None:
    class Here(Beside):
        site, plain, stories = both_backends, place, []
        dead = len(serving_pids(both_backends.plane.daemons["raw"])) - 1

    try:
        _take_steps(Here, examples)
    except (AssertionError, HypothesisException) as error:
        # What is found is tried again, and need not happen again where processes race: the first story is what counts.
        pytest.fail(next(iter(Here.stories), f"{type(error).__name__}: {error}"))


def _take_steps(machine: type[Beside], examples: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            # The message tells every call; to find a shorter story on real mounts would take hours.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_calls_have_the_same_answers(both_backends: BothBackends, tmp_path: Path) -> None:
    run(both_backends, tmp_path, 6)


@pytest.mark.nightly
def test_half_a_million_random_calls_have_the_same_answers(both_backends: BothBackends, tmp_path: Path) -> None:
    run(both_backends, tmp_path, 10_000)
