"""Removing a whole directory, over a namespace in memory."""

from __future__ import annotations

import asyncio
import errno

import pytest

from api.gen import metadata_pb2 as pb
from cacheruntime.errors import BadRequest, CacheError, Missing
from cacheruntime.worker.trees import Removed, Trees


class Names:
    """The namespace of one dataset: paths of files and directories; `log` tells what was removed, in order."""

    def __init__(self, files: list[str], *, stuck: str = "", page: int = 500) -> None:
        self.files = set(files)
        self.directories = {path[:i] for path in files for i, sign in enumerate(path) if sign == "/"}
        self.log: list[str] = []
        self.stuck = stuck
        self.page = page

    async def read_page(self, uid: str, path: str, *, after: str, limit: int) -> pb.ReadDirectoryResponse:
        if path not in self.directories:
            raise Missing(f"there is no {path!r}")
        prefix = f"{path}/"
        names = sorted(
            one.removeprefix(prefix)
            for one in self.files | self.directories
            if one.startswith(prefix) and "/" not in one.removeprefix(prefix)
        )
        rest = [name for name in names if name > after]
        entries = [pb.Entry(path=prefix + name, is_directory=prefix + name in self.directories) for name in rest]
        return pb.ReadDirectoryResponse(entries=entries[: self.page], more=len(entries) > self.page)

    async def remove(self, uid: str, path: str, *, directory: bool) -> int:
        await asyncio.sleep(0)
        mine = self.directories if directory else self.files
        if path not in mine:
            raise Missing(f"there is no {path!r}")
        if path == self.stuck:
            raise CacheError(f"{path!r} cannot go", number=errno.EACCES)
        if directory and any(one.startswith(f"{path}/") for one in self.files | self.directories):
            raise CacheError(f"{path!r} is not empty", number=errno.ENOTEMPTY)
        mine.remove(path)
        self.log.append(path)
        return len(self.log)


async def test_the_marker_goes_first_and_nothing_outside_is_touched() -> None:
    names = Names(["run/10/a/x", "run/10/a/y", "run/10/COMPLETE", "run/20/COMPLETE"])
    assert await Trees(names, names).remove("u", "run/10", first="COMPLETE") == Removed(3, is_done=True)
    assert names.log[0] == "run/10/COMPLETE"
    assert names.log[-2:] == ["run/10/a", "run/10"]
    assert names.files == {"run/20/COMPLETE"}
    assert names.directories == {"run", "run/20"}


@pytest.mark.parametrize("page", [1, 2, 500])
async def test_a_large_tree_takes_several_calls(page: int) -> None:
    names = Names([f"run/10/{part}/{i}" for part in "ab" for i in range(5)] + ["run/10/DONE"], page=page)
    trees = Trees(names, names, call_files=4)
    calls = [await trees.remove("u", "run/10", first="DONE") for _ in range(3)]
    assert calls == [Removed(5, False), Removed(4, False), Removed(2, True)]
    assert names.files == set()
    assert names.directories == {"run"}
    assert await trees.remove("u", "run/10", first="DONE") == Removed(0, is_done=True), "a repetition does no harm"


async def test_what_cannot_go_is_an_error_and_keeps_nothing_else() -> None:
    names = Names(["run/10/a", "run/10/b", "run/10/c", "run/10/DONE"], stuck="run/10/b")
    with pytest.raises(CacheError, match="'run/10/b' cannot go"):
        await Trees(names, names).remove("u", "run/10", first="DONE")
    assert names.files == {"run/10/b"}
    names.stuck = ""
    assert await Trees(names, names).remove("u", "run/10", first="DONE") == Removed(1, is_done=True)


@pytest.mark.parametrize(
    ("path", "first"), [("", "DONE"), ("..", ""), ("run/../../x", ""), ("/run", ""), ("run", "..")]
)
async def test_a_path_that_leaves_its_place_is_refused(path: str, first: str) -> None:
    names = Names(["run/10/DONE"])
    with pytest.raises(BadRequest, match="path"):
        await Trees(names, names).remove("u", path, first=first)
    assert names.log == []
