"""Whatever a handler raises becomes an errno; nothing else ever reaches pyfuse3."""

import asyncio
import errno
import inspect
from typing import Any

import pyfuse3
import pytest

from fuse import errors
from fuse.backends.pyfuse3_backend import HANDLERS, Handlers
from fuse.core.errnos import ERRNOS
from fuse.metrics import Metrics
from tests.builders.fuse_mount import KernelLessMount

ANSWERED = [name for name in HANDLERS if name != "forget"]


def _handlers(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> tuple[Handlers, Metrics]:
    async def raises(self: Handlers, *arguments: Any) -> None:
        raise error

    monkeypatch.setattr(Handlers, name, raises)
    metrics = Metrics()
    return Handlers(KernelLessMount(writable=True).operations, metrics), metrics


def test_every_handler_pyfuse3_awaits_is_wrapped() -> None:
    awaited = {
        name
        for name, member in inspect.getmembers(pyfuse3.Operations, inspect.iscoroutinefunction)
        if not name.startswith("_")
    }
    # poll is answered ENOSYS by the base class, and then never asked for again.
    assert awaited - {"poll"} == set(HANDLERS)


@pytest.mark.parametrize("name", ANSWERED)
async def test_a_defect_is_an_input_output_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    handlers, metrics = _handlers(monkeypatch, name, ZeroDivisionError("defect"))
    for _ in range(2):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await getattr(handlers, name)()
        assert caught.value.errno == errno.EIO
    assert metrics.defects == {name: 2}
    assert metrics.requests == {name: 2}


async def test_a_defect_in_forget_raises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers, metrics = _handlers(monkeypatch, "forget", ZeroDivisionError("defect"))
    await handlers.forget([(1, 1)])
    assert metrics.defects == {"forget": 1}


@pytest.mark.parametrize("kind", list(ERRNOS))
async def test_a_domain_error_is_its_errno(monkeypatch: pytest.MonkeyPatch, kind: type[errors.FileSystemError]) -> None:
    handlers, metrics = _handlers(monkeypatch, "lookup", kind("why"))
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await handlers.lookup(1, b"x", None)
    assert caught.value.errno == ERRNOS[kind]
    assert not metrics.defects


async def test_cancellation_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers, _ = _handlers(monkeypatch, "read", asyncio.CancelledError())
    with pytest.raises(asyncio.CancelledError):
        await handlers.read(1, 0, 1)


async def test_attributes_fill_the_kernels_fields() -> None:
    mount = KernelLessMount(writable=True)
    mount.peers.put(mount.dataset, "a", b"x" * 1000, mtime_ns=1_700_000_000_123_456_789)
    handlers = Handlers(mount.operations, Metrics())
    entry = await handlers.lookup(await mount.inode(""), b"a", None)
    assert (entry.st_size, entry.st_blocks, entry.st_nlink) == (1000, 2, 1)
    assert entry.st_mtime_ns == 1_700_000_000_123_456_789
    assert entry.entry_timeout == entry.attr_timeout == 1.0


async def test_a_missing_name_is_an_entry_without_an_inode() -> None:
    handlers = Handlers(KernelLessMount(writable=True).operations, Metrics())
    entry = await handlers.lookup(1, b"none", None)
    assert (entry.st_ino, entry.entry_timeout) == (0, 1.0)
