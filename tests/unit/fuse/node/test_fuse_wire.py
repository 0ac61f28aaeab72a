"""Packets and descriptors between a keeper and its daemons."""

import os
import socket
from collections.abc import Iterator

import pytest

from fuse.node import wire

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    yield ends
    for each in ends:
        each.close()


def test_a_packet_comes_with_its_descriptors_which_no_child_inherits(pair: Pair) -> None:
    ours, theirs = pair
    descriptor = os.memfd_create("passed")
    os.write(descriptor, b"bytes")
    wire.send(ours, wire.Kept([3, 4]), [descriptor, descriptor])
    received = wire.receive(theirs)
    assert received is not None
    message, descriptors = received
    assert message == wire.Kept([3, 4])
    for each in descriptors:
        assert os.pread(each, 10, 0) == b"bytes"
        assert not os.get_inheritable(each)
        os.close(each)
    assert len(descriptors) == 2
    os.close(descriptor)


def test_who_does_not_want_to_wait_does_not_wait(pair: Pair) -> None:
    """A daemon that is dead, and holds its socket because it is not reaped, is not waited for."""
    ours, theirs = pair
    with pytest.raises(BlockingIOError):
        wire.receive(ours, socket.MSG_DONTWAIT)
    descriptor = os.memfd_create("passed")
    with pytest.raises(BlockingIOError):
        while True:
            wire.send(ours, wire.Keep(1), [descriptor], socket.MSG_DONTWAIT)
    os.close(descriptor)
    assert wire.unread_bytes(ours) > 0
    theirs.close()
    with pytest.raises(ConnectionError):
        wire.receive(ours, socket.MSG_DONTWAIT)


def test_the_end_is_no_packet(pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    assert wire.receive(ours) is None
