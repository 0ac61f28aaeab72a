"""Memory of blocks in flight: what is used again, and what never is while somebody could still see or fill it."""

import ctypes
import mmap
import os
import threading

from cacheruntime.worker.buffers import ALLOCATED_BYTES_MAX, Buffers, page_aligned

SIZE = 1 << 20


def test_memory_nobody_refers_to_is_used_again() -> None:
    buffers = Buffers(SIZE)
    first = buffers.take(SIZE)
    first[:5] = b"block"

    del first
    again = buffers.take(SIZE)

    assert bytes(again[:5]) == b"block"  # the very same memory: fresh memory is zeros
    assert buffers.spare == 0


def test_a_slice_keeps_the_memory() -> None:
    buffers = Buffers(SIZE)
    part = buffers.take(SIZE)[10:20]
    part[:] = b"0123456789"

    other = buffers.take(SIZE)
    other[:] = bytes(SIZE)

    assert bytes(part) == b"0123456789"


def test_a_thread_that_still_fills_it_keeps_the_memory() -> None:
    """A fetch that timed out is cancelled, but its thread writes on."""
    buffers = Buffers(SIZE)
    may_fill, is_filled = threading.Event(), threading.Event()

    def fill(view: memoryview) -> None:
        may_fill.wait(10)
        view[:4] = b"late"
        is_filled.set()

    thread = threading.Thread(target=fill, args=(buffers.take(SIZE),))
    thread.start()
    other = buffers.take(SIZE)
    other[:4] = b"mine"
    may_fill.set()
    assert is_filled.wait(10)
    thread.join(10)

    assert bytes(other[:4]) == b"mine"


def test_only_so_much_is_kept() -> None:
    buffers = Buffers(SIZE, spare_max=2)
    taken = [buffers.take(SIZE) for _ in range(5)]

    taken.clear()

    assert buffers.spare == 2


def test_shorter_blocks_use_the_same_memory_and_have_their_own_length() -> None:
    buffers = Buffers(SIZE)
    del (last := [buffers.take(SIZE - 1)])[0]

    assert not last
    assert buffers.spare == 1
    assert len(buffers.take(ALLOCATED_BYTES_MAX + 1)) == ALLOCATED_BYTES_MAX + 1
    assert buffers.spare == 1


def test_small_and_larger_ones_are_not_kept() -> None:
    buffers = Buffers(SIZE)
    for size_bytes in (0, 1, ALLOCATED_BYTES_MAX, SIZE + 1):
        assert len(buffers.take(size_bytes)) == size_bytes

    assert buffers.spare == 0


def test_memory_begins_where_a_page_does_also_when_it_is_used_again() -> None:
    buffers = Buffers(SIZE)
    for _ in range(2):
        taken = [buffers.take(SIZE) for _ in range(3)]
        assert {address(view) % mmap.PAGESIZE for view in taken} == {0}
        del taken


def test_a_forked_child_writes_to_a_copy() -> None:
    memory = page_aligned(SIZE)
    child = os.fork()
    if not child:
        memory[:4] = b"mine"
        os._exit(0)
    os.waitpid(child, 0)
    assert bytes(memory[:4]) == bytes(4)


def address(view: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
