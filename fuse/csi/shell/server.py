"""The processes: wiring, start, stop.

Owns the order. Plugin: what a crash left is cleared up, CSI is served, then kubelet is told. At its end nothing is
unmounted and no daemon is ended: pods go on reading, and the next plugin finds everything as it is.
"""

import asyncio
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import grpc
import structlog

from api import names
from api.gen import csi_pb2_grpc, launcher_pb2_grpc, plugin_registration_pb2_grpc
from api.gen import plugin_registration_pb2 as registration
from api.trust.files import TrustError, TrustFiles
from api.trust.identity import Identity, Role
from fuse.csi.errors import NotPossible
from fuse.csi.settings import Settings
from fuse.csi.shell import daemons, idmap, services
from fuse.csi.shell.catalogue import Catalogue
from fuse.csi.shell.controller import Controller, MadeVolumes
from fuse.csi.shell.daemons import Daemons, DatasetFolders, LocalDaemons
from fuse.csi.shell.edge import Context, unary
from fuse.csi.shell.launcher import Launcher, LauncherClient
from fuse.csi.shell.node import NodeVolumes, watch
from fuse.csi.shell.records import Records
from fuse.csi.shell.targets import Targets
from kube.http import serve

log = structlog.get_logger()

GRACE_SECONDS: Final = 20.0
"""For calls in work at the end."""
SOCKET_BYTES_MAX: Final = 107
"""What the kernel takes as the path of a unix socket."""
CSI_VERSION: Final = "1.0.0"
"""What kubelet compares: CSI's major version."""


class Registration(plugin_registration_pb2_grpc.RegistrationServicer):
    """How kubelet learns where CSI is served; it watches the folder of our socket."""

    def __init__(self, endpoint: Path) -> None:
        self._endpoint = endpoint

    @unary
    async def GetInfo(self, request: registration.InfoRequest, context: Context) -> registration.PluginInfo:
        """Who is there."""
        return registration.PluginInfo(
            type="CSIPlugin",
            name=names.CSI_DRIVER,
            endpoint=str(self._endpoint),
            supported_versions=[CSI_VERSION],
        )

    @unary
    async def NotifyRegistrationStatus(
        self, request: registration.RegistrationStatus, context: Context
    ) -> registration.RegistrationStatusResponse:
        """Kubelet's answer. A refusal is logged; kubelet asks again when it restarts, and when we do."""
        if request.plugin_registered:
            log.info("registered", driver=names.CSI_DRIVER)
        else:
            log.error("not_registered", driver=names.CSI_DRIVER, error=request.error)
        return registration.RegistrationStatusResponse()


async def run(settings: Settings, stopping: asyncio.Event) -> None:
    """Run one process until `stopping`. NotPossible, ConfigError, OSError when it cannot start."""
    daemons.check_machine()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(serve(settings.metrics))
        if settings.role == "launcher":
            await _launcher(settings, stack)
        else:
            await _plugin(settings, stack)
        await stopping.wait()
        log.info("stopping")


async def _launcher(settings: Settings, stack: AsyncExitStack) -> None:
    local = LocalDaemons(DatasetFolders(settings.state), settings.daemon_arguments())
    server = grpc.aio.server()
    launcher_pb2_grpc.add_LauncherServicer_to_server(Launcher(local), server)
    assert settings.launcher_socket is not None, "the settings see to it"
    await _serve(server, settings.launcher_socket, stack)
    log.info("ready", role="launcher", socket=str(settings.launcher_socket), pid=os.getpid())


async def _plugin(settings: Settings, stack: AsyncExitStack) -> None:
    catalogue = Catalogue(settings.metadata, _trust(settings))
    stack.push_async_callback(catalogue.close)
    targets = Targets(str(settings.kubelet))
    stack.callback(targets.close)
    folders = DatasetFolders(settings.state)
    chosen: Daemons = LocalDaemons(folders, settings.daemon_arguments())
    if settings.launcher_socket is not None:
        client = LauncherClient(settings.launcher_socket)
        stack.push_async_callback(client.close)
        chosen = client
    maps_owners = settings.backend != "pyfuse3" and await asyncio.to_thread(idmap.is_possible)
    node = NodeVolumes(targets, Records(settings.state / "uses"), folders, chosen, catalogue, maps_owners=maps_owners)
    await node.recover()
    lifting = catalogue.fences(settings.node).run(node.has_pod, settings.fence_seconds)
    for work in (watch(node, settings.heal_seconds), lifting):
        stack.push_async_callback(_cancelled, asyncio.ensure_future(work))

    server = grpc.aio.server()
    csi_pb2_grpc.add_IdentityServicer_to_server(
        services.Identity(catalogue, has_controller=settings.controller), server
    )
    csi_pb2_grpc.add_NodeServicer_to_server(services.Node(settings.node, node), server)
    if settings.controller:
        controller = Controller(catalogue, MadeVolumes(settings.state / "volumes"))
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, server)
    await _serve(server, settings.socket, stack)
    if settings.registration is not None:
        registrar = grpc.aio.server()
        plugin_registration_pb2_grpc.add_RegistrationServicer_to_server(Registration(settings.socket), registrar)
        await _serve(registrar, settings.registration / f"{names.CSI_DRIVER}-reg.sock", stack)
    log.info("ready", role="plugin", socket=str(settings.socket), pid=os.getpid())


def _trust(settings: Settings) -> TrustFiles | None:
    """Return who we are and whom we believe; NotPossible."""
    if settings.trust is None:
        log.warning("trust_is_off", notice="nothing is encrypted, and whoever answers is believed")
    try:
        return TrustFiles.of(settings.trust, Identity(Role.NODE, settings.node))
    except TrustError as error:
        raise NotPossible(f"trust: {error}") from error


async def _serve(server: grpc.aio.Server, socket: Path, stack: AsyncExitStack) -> None:
    """Serve at a unix socket that only our own user may use, until the stack unwinds."""
    if len(os.fsencode(socket)) > SOCKET_BYTES_MAX:
        raise NotPossible(f"socket {socket} is too long a path; at most {SOCKET_BYTES_MAX} bytes are possible")
    await asyncio.to_thread(socket.parent.mkdir, parents=True, exist_ok=True)
    try:
        server.add_insecure_port(f"unix:{socket}")
    except RuntimeError as error:
        raise NotPossible(f"socket {socket} cannot be served at; is its folder ours to write in?") from error
    # Before the first call is answered: whoever reaches this socket mounts as root.
    await asyncio.to_thread(socket.chmod, 0o600)
    await server.start()
    stack.push_async_callback(server.stop, GRACE_SECONDS)


async def _cancelled(task: "asyncio.Future[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
