"""The least that can move a file over TCP: `python -m benchmarks.bare_sender FILE BLOCK_BYTES`.

Prints its port; every connection gets the file's blocks by sendfile, from its beginning over and over, until the other
side hangs up. One process, as a worker is one.
"""

import os
import socket
import sys


def main(path: str, block_bytes: int) -> None:
    """Serve for ever, one connection after another."""
    descriptor = os.open(path, os.O_RDONLY)
    size_bytes = os.fstat(descriptor).st_size
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                while True:
                    for start in range(0, size_bytes, block_bytes):
                        send_block(connection, descriptor, start, min(block_bytes, size_bytes - start))
            except ConnectionError:
                continue


def send_block(connection: socket.socket, descriptor: int, offset: int, size_bytes: int) -> None:
    """Move one block; ConnectionError when nobody takes it any more."""
    while size_bytes:
        sent = os.sendfile(connection.fileno(), descriptor, offset, size_bytes)
        offset, size_bytes = offset + sent, size_bytes - sent


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
