"""A descriptor that its keeper has no room for: waited for, for a while."""

import errno
import itertools

import pytest

from fuse.client import worker_client
from fuse.client.vault import NoVault
from fuse.client.worker_client import WorkerClient
from fuse.errors import TooManyFiles, Unavailable
from fuse.metrics import Metrics


class FullVault(NoVault):
    """Has room after so many tries, or fails otherwise."""

    def __init__(self, refusals: int, failure: OSError) -> None:
        super().__init__()
        self.kept: dict[int, int] = {}
        self._failure = failure
        self._left = itertools.repeat(None, refusals)

    def keep(self, number: int, descriptor: int) -> None:
        for _ in self._left:
            raise self._failure
        self.kept[number] = descriptor


def client(vault: FullVault) -> WorkerClient:
    return WorkerClient("/nowhere", node="n", metrics=Metrics(), vault=vault)


async def test_room_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "KEEP_PAUSE_SECONDS", 0.0)
    vault = FullVault(3, BlockingIOError(errno.EAGAIN, "full"))
    await client(vault).keep(7, 1)
    assert vault.kept == {7: 1}


async def test_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_client, "KEEP_SECONDS", 0.0)
    vault = FullVault(10, BlockingIOError(errno.EAGAIN, "full"))
    with pytest.raises(TooManyFiles):
        await client(vault).keep(7, 1)
    assert not vault.kept


async def test_nor_when_there_never_will_be_any() -> None:
    vault = FullVault(1, OSError(errno.EPIPE, "gone"))
    with pytest.raises(Unavailable):
        await client(vault).keep(7, 1)
    assert not vault.kept
