"""Between the keeper of a mount and its daemons: messages and descriptors over a socket pair.

Owns their form. A message is one packet; descriptors that are in flight live on when their sender dies.
"""

import socket
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

DESCRIPTORS_MAX: Final = 250
"""The kernel takes 253 with one packet."""
_TIMEVAL: Final = struct.Struct("@ll")
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


def send(channel: socket.socket, message: Message, descriptors: Sequence[int] = (), flags: int = 0) -> None:
    """Send one packet; OSError."""
    packet = [msgspec.msgpack.encode(message)]
    if descriptors:
        socket.send_fds(channel, packet, list(descriptors), flags)
    else:
        channel.sendmsg(packet, (), flags)


def receive(channel: socket.socket, flags: int = 0) -> tuple[Message, list[int]] | None:
    """Return the next packet and its descriptors, the caller's from now on; None at the end. OSError: nothing is
    there (BlockingIOError, with MSG_DONTWAIT), or there is no room for the descriptors."""
    packet, descriptors, got, _ = socket.recv_fds(
        channel, _PACKET_BYTES, DESCRIPTORS_MAX, flags | socket.MSG_CMSG_CLOEXEC
    )
    if got & socket.MSG_CTRUNC:
        raise OSError("descriptors were lost: the limit of open files is reached")
    if not packet:
        return None
    return _decoder.decode(packet), list(descriptors)
