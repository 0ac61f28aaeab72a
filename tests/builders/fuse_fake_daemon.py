"""A mount over in-memory peers, as a process: BACKEND MOUNT TREE [HANDLER_THAT_RAISES].

pyfuse3 has one session a process, and a test that reads a mount it serves itself would wait for itself.
"""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any

import uvloop

from fuse.backends import pyfuse3_backend, raw_handlers
from fuse.metrics import Metrics
from fuse.node.daemon import Daemon
from tests.builders.fuse_peers import FakePeers


def _raising(name: str) -> None:
    async def raises(self: Any, *arguments: Any) -> None:
        raise RuntimeError(f"defect in {name}")

    setattr(pyfuse3_backend.Handlers, name, raises)
    setattr(raw_handlers.Handlers, name, raises)


async def _main(backend: str, mount: str, tree: str) -> None:
    peers = FakePeers()
    peers.load_tree(Path(tree))
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    daemon = Daemon(peers, peers, Metrics(), Path(mount), allow_other=True, backend=backend)
    await daemon.all_datasets(await peers.list_datasets())
    daemon.watching(True)
    await daemon.run(stopping)


if __name__ == "__main__":
    for handler in sys.argv[4:]:
        _raising(handler)
    uvloop.run(_main(*sys.argv[1:4]))
