"""The plugin's records on a disk that takes nothing, and its questions that nobody answers."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse.csi.errors import NotNow, TooSlow
from fuse.csi.shell.blocking import in_thread
from fuse.csi.shell.records import Records, Use

USE = Use("/k/pods/a", "n/d", "n", "d", "", read_only=True, writable=False, is_staging=False)


def test_a_record_that_cannot_be_written_or_removed_is_told(tmp_path: Path) -> None:
    records = Records(tmp_path / "uses")
    records.put(USE)
    (file,) = (tmp_path / "uses").iterdir()
    file.unlink()
    file.mkdir()  # in the way of every change
    changes: list[Callable[[], None]] = [lambda: records.put(USE), lambda: records.drop(USE.path)]
    for change in changes:
        with pytest.raises(NotNow, match=r"'/k/pods/a' cannot be written down in .*uses .*trying again is safe"):
            change()
    assert list((tmp_path / "uses").iterdir()) == [file], "no temporary file is left"
    assert records.get(USE.path) == USE


async def test_calls_with_the_same_question_are_one_until_it_is_answered() -> None:
    answer, asked = threading.Event(), []

    def ask() -> int:
        asked.append(1)
        answer.wait()
        return len(asked)

    for _ in range(3):
        with pytest.raises(TooSlow, match="the question"):
            await in_thread(ask, what="the question", seconds=0.01, shared="a")
    waiting = asyncio.ensure_future(in_thread(ask, what="the question", seconds=60, shared="a"))
    other = asyncio.ensure_future(in_thread(ask, what="another", seconds=60, shared="b"))
    await asyncio.sleep(0)
    answer.set()
    assert await waiting == await other == 2
    assert await in_thread(ask, what="the question", seconds=60, shared="a") == 3


async def test_what_a_shared_question_raises_is_raised_to_all_that_ask() -> None:
    answer = threading.Event()

    def ask() -> None:
        answer.wait()
        raise OSError(107, "not connected")

    with pytest.raises(TooSlow):
        await in_thread(ask, what="it", seconds=0.01, shared="c")
    asking = [asyncio.ensure_future(in_thread(ask, what="it", seconds=60, shared="c")) for _ in range(3)]
    await asyncio.sleep(0)
    answer.set()
    assert all(isinstance(each, OSError) for each in await asyncio.gather(*asking, return_exceptions=True))
