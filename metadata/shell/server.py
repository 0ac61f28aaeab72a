"""The process: wiring, start, stop.

Owns the order. Start: database, workers known from before, gRPC, then the log says where. Stop: no new calls,
calls under way get their time, listings are interrupted, the last commit is awaited, the database is closed.
"""

import asyncio
import time
from typing import Final

import grpc
import structlog

from api.gen import metadata_pb2_grpc
from api.trust.channels import add_port
from api.trust.files import TrustError, TrustFiles
from api.trust.identity import Role
from metadata.errors import SettingsError
from metadata.settings import MetadataSettings, parse_address
from metadata.shell.catalog import Catalog
from metadata.shell.checkpoint_service import CheckpointService
from metadata.shell.database import Database
from metadata.shell.fence_service import FenceService
from metadata.shell.group_sizes import GroupSizes
from metadata.shell.held_service import HeldService
from metadata.shell.namespace_service import NamespaceService
from metadata.shell.residency_service import ResidencyService
from metadata.shell.residency_state import ResidencyState
from metadata.shell.signing_keys import SigningKeys
from metadata.shell.small_files import SmallFiles
from metadata.shell.sync import Listings
from metadata.shell.trust_service import TrustService
from metadata.shell.watchers import Watchers
from metadata.stores.registry import open_store as open_database
from understores.registry import open_store

MESSAGE_BYTES_MAX: Final = 64 << 20
"""A full block report of some 300,000 files."""
LEASE_CHECKS: Final = 12
"""Checks a lease: death is seen at most a twelfth of the lease late."""

log = structlog.get_logger()


class MetadataServer:
    """One running service."""

    def __init__(self, settings: MetadataSettings) -> None:
        """Open the database; SettingsError when that cannot be."""
        self._settings = settings
        try:
            self._trust = None if settings.trust is None else TrustFiles(settings.trust)
        except TrustError as error:
            raise SettingsError(f"trust: {error}.") from error
        if self._trust is not None and self._trust.identity.role is not Role.METADATA:
            raise SettingsError(f"trust: {settings.trust} is of {self._trust.identity}, not of a metadata service.")
        keys = None
        if settings.token_keys is not None:
            keys = SigningKeys(settings.token_keys, settle_seconds=settings.token_key_settle_seconds)
        self._database = Database(open_database(settings.store))
        self._residency = ResidencyState(self._database, settings.lease_seconds, time.monotonic)
        self._watchers = watchers = Watchers()
        self._listings = Listings(
            self._database,
            self._residency,
            watchers,
            open_store=open_store,
            credentials_dir=settings.credentials_dir,
            kept_versions=settings.kept_versions,
            requests_max=settings.listing_requests,
        )
        self._group_sizes = GroupSizes(self._database, watchers)
        catalog = Catalog(
            self._database,
            self._residency,
            self._listings,
            watchers,
            self._group_sizes,
            kept_versions=settings.kept_versions,
        )
        self._namespace = NamespaceService(catalog)
        small_files = SmallFiles(open_store, settings.credentials_dir)
        self._services = (ResidencyService(catalog), CheckpointService(catalog, small_files))
        self._held = HeldService(catalog)
        self._fences = FenceService(catalog, settings.fence_settle_seconds)
        self._tokens = TrustService(catalog, keys, settings.token_seconds)
        self.is_ready = False
        """Calls are taken; False again once the process is to end."""

    @property
    def is_healthy(self) -> bool:
        """Whether what is written still reaches the database."""
        return not self._database.broken.is_set()

    async def run(self, stop: asyncio.Event) -> int:
        """Serve until `stop` is set (returns 0) or the disk fails (returns 1)."""
        tasks = [
            asyncio.create_task(self._database.run(), name="commits"),
            asyncio.create_task(self._watch_leases(), name="leases"),
            asyncio.create_task(self._watchers.run(self._database.read), name="watches"),
        ]
        try:
            await self._residency.restore()
            await self._listings.resume()  # before the first Sync, which joins them
            server, address = await self._serve()
            await self._namespace.resume_purges()
            self.is_ready = True
            log.info("metadata.ready", address=address)
            waits = [asyncio.create_task(stop.wait()), asyncio.create_task(self._database.broken.wait())]
            await asyncio.wait([*waits, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
            self.is_ready = False
            log.info("metadata.stopping", broken=self._database.broken.is_set())
            self._watchers.close()
            await server.stop(self._settings.shutdown_seconds)
        finally:
            await self._listings.close()
            await self._group_sizes.close()
            await self._namespace.close()
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            await self._database.close()
        failed = [error for error in ended if isinstance(error, Exception)]
        for error in failed:
            log.error("metadata.task_failed", exc_info=error)
        return 1 if failed or self._database.broken.is_set() else 0

    async def _serve(self) -> tuple[grpc.aio.Server, str]:
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.so_reuseport", 0),  # a second process on the port must fail, not share it
                ("grpc.max_metadata_size", 16 << 10),
            ]
        )
        metadata_pb2_grpc.add_NamespaceServicer_to_server(self._namespace, server)
        residency, checkpoints = self._services
        metadata_pb2_grpc.add_ResidencyServicer_to_server(residency, server)
        metadata_pb2_grpc.add_CheckpointsServicer_to_server(checkpoints, server)
        metadata_pb2_grpc.add_HeldServicer_to_server(self._held, server)
        metadata_pb2_grpc.add_FencesServicer_to_server(self._fences, server)
        metadata_pb2_grpc.add_TrustServicer_to_server(self._tokens, server)
        host, _ = parse_address(self._settings.listen)
        if self._trust is None:
            log.warning("metadata.trust_is_off", notice="whoever reaches the port may read and change every dataset")
        try:
            port = add_port(server, self._settings.listen, self._trust)
        except RuntimeError:
            port = 0
        if port == 0:
            raise SettingsError(
                f"listen {self._settings.listen} cannot be bound: the port is in use or the host is not ours."
            )
        await server.start()
        return server, f"{host}:{port}"

    async def _watch_leases(self) -> None:
        interval_seconds = self._settings.lease_seconds / LEASE_CHECKS
        while True:
            due = time.monotonic() + interval_seconds
            await asyncio.sleep(interval_seconds)
            late_seconds = time.monotonic() - due
            if late_seconds > interval_seconds:
                log.warning("metadata.stood_still", seconds=round(late_seconds, 3))
            for node in self._residency.expire(late_seconds):
                log.warning("metadata.worker_lease_ended", node=node)
