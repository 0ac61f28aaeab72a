"""Free loopback ports.

Owns finding them. Does not hold them: between finding and listening another
process may take one, which the component then reports. Ports are looked for
below the kernel's ephemeral range, so that an outgoing connection of anything on
the machine does not sit on a port a stopped cluster wants back."""

from __future__ import annotations

import random
import socket
from collections.abc import Collection

LOOPBACK = "127.0.0.1"
#: Debian's ephemeral range starts at 32768; registered services are rare above 20000.
FIRST_PORT = 20_000
LAST_PORT = 31_999


def is_free(port: int) -> bool:
    """True when a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers set this too: a port in TIME_WAIT is free for them.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def pick_free(taken: Collection[int] = (), *, rng: random.Random | None = None) -> int:
    """A free loopback port that is not in `taken`. Raises OSError when there is none.

    The search starts at a random place, so that clusters started at the same moment
    do not pick the same port."""
    span = LAST_PORT - FIRST_PORT + 1
    start = (rng or random.SystemRandom()).randrange(span)
    for offset in range(span):
        port = FIRST_PORT + (start + offset) % span
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port on {LOOPBACK} between {FIRST_PORT} and {LAST_PORT}")
