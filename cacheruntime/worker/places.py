"""What a worker needs of its machine before it can serve: who it is, tiers and their folders, ports, its epoch.

Owns making them, and the sentence that says why one cannot be had. Holds nothing.
"""

import hashlib
import socket
import time
from pathlib import Path

import grpc
import structlog

from api.trust.channels import add_port
from api.trust.files import TrustError, TrustFiles
from api.trust.identity import Identity, Role
from cacheruntime.core.tiers import Tier, moving_room
from cacheruntime.errors import CacheError
from cacheruntime.worker.block_store import BlockStore
from cacheruntime.worker.fsck import FolderInUse, lock_folder
from cacheruntime.worker.rooms import TierFolder
from cacheruntime.worker.settings import Address, WorkerSettings
from cacheruntime.worker.speeds import measure_read

log = structlog.get_logger()


def trusted(settings: WorkerSettings) -> TrustFiles | None:
    """Return who we are and whom we believe; CacheError."""
    if settings.trust is None:
        log.warning("trust_is_off", notice="whoever reaches a port or the socket may read and change every dataset")
    try:
        return TrustFiles.of(settings.trust, Identity(Role.WORKER, settings.node))
    except TrustError as error:
        raise CacheError(f"--trust: {error}") from error


def tier_of(settings: WorkerSettings, number: int) -> Tier:
    """Return the room of the tier at this place of the command line."""
    tier, tunables = settings.tiers[number], settings.tunables
    temporary = int(tier.quota_bytes * tunables.temporary_percent / 100)
    is_fastest = tier.medium == settings.tiers[0].medium
    return Tier(
        tier.medium,
        tier.quota_bytes,
        max(temporary, tunables.temporary_bytes_min),
        high=tier.high,
        low=tier.low,
        moving_room_bytes=0 if is_fastest else moving_room(tier.quota_bytes),
    )


def spare_folders(settings: WorkerSettings) -> list[TierFolder]:
    """Memory that keeps nothing: where files are opened, and bytes held for readers, while no medium works."""
    tunables = settings.tunables
    if not tunables.spare_directory:
        return []
    name = hashlib.blake2b(str(settings.socket.absolute()).encode(), digest_size=8).hexdigest()
    directory = Path(tunables.spare_directory) / f"headrace-spare-{name}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no_spare_memory", folder=str(directory), error=error.strerror)
        return []
    return [TierFolder(Tier("MEM", 0, tunables.temporary_bytes_min), directory)]


def lock(directory: Path) -> int:
    """Hold a tier's folder, making it when there is none; CacheError. Blocks."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return lock_folder(directory)
    except FolderInUse as error:
        raise CacheError(str(error)) from error
    except OSError as error:
        raise CacheError(f"tier folder {directory} cannot be used: {error.strerror}") from error


def listen(address: Address, flag: str) -> socket.socket:
    """Return a socket that listens at the address `flag` gave; CacheError."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host.strip("[]"), address.port))
    except OSError as error:
        listener.close()
        raise CacheError(f"{flag} {address} cannot be used: {error.strerror}") from error
    listener.listen(1024)
    return listener


def endpoint_of(listener: socket.socket, settings: WorkerSettings) -> str:
    """Return where peers reach the listener, with the port that was found when none was given."""
    return str(Address(settings.listen.host, listener.getsockname()[1]))


def bind_control(server: grpc.aio.Server, address: Address, trust: TrustFiles | None) -> int:
    """Let the server listen there; return its port. CacheError."""
    try:
        return add_port(server, str(address), trust)
    except RuntimeError as error:
        raise CacheError(f"--control {address} cannot be used: the port is in use or not ours") from error


def next_epoch(directory: Path) -> int:
    """Return an epoch above every earlier one of this directory, also when the clock went back. Blocks."""
    path = directory / "epoch"
    try:
        last = int(path.read_text())
    except (FileNotFoundError, ValueError):
        last = 0
    epoch = max(time.time_ns(), last + 1)
    temporary = path.with_name("epoch.new")
    try:
        temporary.write_text(str(epoch))
        temporary.replace(path)
    except OSError as error:
        # A full disk must not keep a worker from serving; the clock alone is then what orders its starts.
        log.warning("epoch_not_stored", folder=str(directory), error=error.strerror)
    return epoch


async def measured(store: BlockStore, directory: Path, size_bytes: int) -> int:
    """Return the speed a tier reads at, in bytes a second; 0 = it cannot be read."""
    try:
        return await store.run(measure_read, directory, size_bytes)
    except OSError as error:
        log.warning("tier_not_measured", folder=str(directory), error=error.strerror)
        return 0
