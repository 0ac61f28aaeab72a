"""Random calls on two mounts and on a plain directory: the same answers, except those SEMANTICS.md declares."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.builders.both_backends import BLOCK_BYTES, BothBackends
from tests.exercise.twins import RENAME_NOREPLACE, Twins, tree

pytestmark = pytest.mark.mount

PATHS = st.sampled_from(["a", "b", "é", "d", "d/a", "d/b", "d/e", "d/e/a", "e", "."])
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
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.name = f"example-{next(self.numbers)}"
        (self.plain / self.name).mkdir()
        (self.site.mounts[0] / self.name).mkdir()
        self.twins = Twins([mount / self.name for mount in self.site.mounts], self.plain / self.name)

    def teardown(self) -> None:
        try:
            self.twins.agree()
            wanted = {path: content for path, content in tree(self.twins.plain).items() if isinstance(content, tuple)}
            stored = tree(self.site.origin / self.name)
            for path, (_, content) in wanted.items():
                assert stored[path][1] == content, f"{path} is another one in the under store"  # type: ignore[index]
            files = {path for path, content in stored.items() if isinstance(content, tuple)}
            assert files == set(wanted), "the under store has other files"
        finally:
            self.twins.let_go()

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


def run(both_backends: BothBackends, plain: Path, examples: int) -> None:
    class Here(Beside):
        pass

    Here.site, Here.plain = both_backends, plain
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=examples,
            stateful_step_count=50,
            deadline=None,
            database=None,
            print_blob=True,
            phases=[Phase.generate, *([Phase.shrink] if os.environ.get("SHRINK") else [])],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_calls_have_the_same_answers(both_backends: BothBackends, tmp_path: Path) -> None:
    run(both_backends, tmp_path, 6)


@pytest.mark.nightly
def test_half_a_million_random_calls_have_the_same_answers(both_backends: BothBackends, tmp_path: Path) -> None:
    run(both_backends, tmp_path, 10_000)
