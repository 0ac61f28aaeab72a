"""Mutations against a real directory: what POSIX does there, the namespace does too."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from metadata.core import mutations
from metadata.core.entries import Changes, Entry, Kind
from metadata.errors import MetadataError

PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map("/".join)


class MutationModel(RuleBasedStateMachine):
    """The namespace is a dict; the model is a temporary directory."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}
        self.root = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def entry(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def has_children(self, path: str) -> bool:
        return any(name.startswith(f"{path}/") for name in self.entries)

    def below(self, path: str) -> Iterator[Entry]:
        yield from [entry for name, entry in sorted(self.entries.items()) if name.startswith(f"{path}/")]

    def _apply(self, changes: Changes) -> bool:
        for path in changes.removals:
            del self.entries[path]
        self.entries |= {entry.path: entry for entry in changes.upserts}
        return True

    def _both(self, ours: object, theirs: object) -> None:
        outcomes = []
        for act in (ours, theirs):
            try:
                act()  # type: ignore[operator]
                outcomes.append(True)
            except (MetadataError, OSError):
                outcomes.append(False)
        assert outcomes[0] == outcomes[1]

    @rule(path=PATHS, size=st.integers(0, 3))
    def put(self, path: str, size: int) -> None:
        def theirs() -> None:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_bytes(b"x" * size)

        entry = Entry(path, Kind.FILE, size, f"e{size}")
        self._both(lambda: self._apply(mutations.put_file(self, entry)), theirs)

    @rule(path=PATHS)
    def make_directory(self, path: str) -> None:
        self._both(
            lambda: self._apply(mutations.make_directory(self, path, 0o755, 1)),
            lambda: (self.root / path).mkdir(parents=True),
        )

    @rule(path=PATHS, mode=st.sampled_from([0o600, 0o644, 0o755]))
    def set_mode(self, path: str, mode: int) -> None:
        self._both(
            lambda: self._apply(mutations.set_mode(self, path, mode)), lambda: (self.root / path).lstat() and None
        )
        if path in self.entries:
            assert self.entries[path].mode == mode

    @rule(path=PATHS, directory=st.booleans())
    def remove(self, path: str, directory: bool) -> None:
        self._both(
            lambda: self._apply(mutations.remove(self, path, directory=directory)),
            (self.root / path).rmdir if directory else (self.root / path).unlink,
        )

    @rule(names=st.tuples(PATHS, PATHS))
    def rename(self, names: tuple[str, str]) -> None:
        source, target = names

        def theirs() -> None:
            old, new = self.root / source, self.root / target
            old.lstat()
            if old.is_dir() and new.exists() and old != new:
                raise FileExistsError  # ours takes no empty directory's place
            if source != target and target.startswith(f"{source}/"):
                raise OSError
            if old.is_file() and target.startswith(f"{source}/"):
                raise OSError
            new.parent.mkdir(parents=True, exist_ok=True)
            old.rename(new)

        self._both(lambda: self._apply(mutations.rename(self, source, target, target_etag="", mtime_ns=1)), theirs)

    @invariant()
    def same(self) -> None:
        found: dict[str, int] = {}
        for top, directories, files in os.walk(self.root):
            lead = os.path.relpath(top, self.root)
            for name in directories:
                found[os.path.normpath(f"{lead}/{name}")] = -1
            for name in files:
                found[os.path.normpath(f"{lead}/{name}")] = (Path(top) / name).stat().st_size
        ours = {path: -1 if entry.is_directory else entry.size_bytes for path, entry in self.entries.items()}
        assert ours == found


MutationModel.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMutationModel = MutationModel.TestCase
