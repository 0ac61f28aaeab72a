"""Between the keeper of a mount and its daemons: messages and descriptors over a socket pair.

Owns their form. A message is one packet; descriptors that are in flight live on when their sender dies.
"""

import array
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Sequence
from typing import Final

import msgspec

DESCRIPTORS_MAX: Final = 250
"""The kernel takes 253 with one packet."""
_TIMEVAL: Final = struct.Struct("@ll")
_INT: Final = struct.Struct("@i")
_SO_SNDBUFFORCE: Final = 32
_PACKET_BYTES: Final = 64 << 10


class Warm(msgspec.Struct, frozen=True, tag="warm"):
    """Daemon: everything is loaded, I wait."""


class Fork(msgspec.Struct, frozen=True, tag="fork"):
    """Keeper to the nursery, with a socket: make a daemon that has it."""


class Forked(msgspec.Struct, frozen=True, tag="forked"):
    """Nursery: it is made."""

    pid: int


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """Daemon: I answer the kernel."""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Daemon: my loop goes round."""


class Keep(msgspec.Struct, frozen=True, tag="keep"):
    """Daemon, with a descriptor: keep it under this number, in place of what is kept there."""

    number: int


class LetGo(msgspec.Struct, frozen=True, tag="let-go"):
    """Daemon: these are not needed any more."""

    numbers: list[int]


class NewJournal(msgspec.Struct, frozen=True, tag="new-journal"):
    """Daemon, with a descriptor: the journal goes on here."""


class Follow(msgspec.Struct, frozen=True, tag="follow"):
    """Keeper to a daemon that waits, with a descriptor: the journal that is being written now."""


class Kept(msgspec.Struct, frozen=True, tag="kept"):
    """Keeper, with a descriptor for each number: what daemons before you kept. There may be several of these."""

    numbers: list[int]


class Proceed(msgspec.Struct, frozen=True, tag="proceed"):
    """Keeper, with the journal's descriptor: serve."""

    minor: int
    reason: str
    takeovers: dict[str, int]
    """By reason, this one included."""
    refuses_resent: bool


class Leave(msgspec.Struct, frozen=True, tag="leave"):
    """Keeper: make room for your successor."""


Message = Warm | Fork | Forked | Serving | Beat | Keep | LetGo | NewJournal | Follow | Kept | Proceed | Leave

_decoder: Final = msgspec.msgpack.Decoder(Message)


def set_deadline(channel: socket.socket, seconds: int) -> None:
    """Make blocking calls fail with BlockingIOError after so long."""
    for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
        channel.setsockopt(socket.SOL_SOCKET, option, _TIMEVAL.pack(seconds, 0))


def make_room(channel: socket.socket, room_bytes: int) -> None:
    """Let so much be under way from this end. Without CAP_NET_ADMIN it is what the system lets everybody have."""
    try:
        channel.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, room_bytes)
    except PermissionError:
        channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room_bytes)


def send(channel: socket.socket, message: Message, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    """Send one packet; OSError."""
    passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    channel.sendmsg([msgspec.msgpack.encode(message)], passed, flags)


def unread_bytes(channel: socket.socket) -> int:
    """Return how much of the other side's room is taken by packets that it has not read, as the kernel counts."""
    taken = bytearray(_INT.size)
    fcntl.ioctl(channel, termios.TIOCOUTQ, taken)
    count: int = _INT.unpack(taken)[0]
    return count


def receive(channel: socket.socket, flags: int = 0) -> tuple[Message, list[int]] | None:
    """Return the next packet and its descriptors, the caller's from now on; None at the end. OSError: nothing is
    there (BlockingIOError, with MSG_DONTWAIT), or there is no room for the descriptors."""
    # Not by socket.recv_fds: in Python 3.11 it and send_fds forget the flags they are given.
    descriptors = array.array("i")
    room = socket.CMSG_LEN(DESCRIPTORS_MAX * descriptors.itemsize)
    packet, ancillary, got, _ = channel.recvmsg(_PACKET_BYTES, room, flags | socket.MSG_CMSG_CLOEXEC)
    for level, kind, numbers in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(numbers[: len(numbers) - len(numbers) % descriptors.itemsize])
    if got & socket.MSG_CTRUNC:
        for each in descriptors:
            os.close(each)
        raise OSError("descriptors were lost: the limit of open files is reached")
    if not packet:
        return None
    return _decoder.decode(packet), list(descriptors)
