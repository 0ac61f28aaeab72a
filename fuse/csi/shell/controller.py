"""CSI's Controller service: claims of a StorageClass become names for datasets that are there.

Nothing is made or deleted in the under store. What is remembered, one small file a name in the state folder, is only
which sizes were asked for; without these files ids and volumes stay valid.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import structlog

from api.gen import csi_pb2 as csi
from api.gen import csi_pb2_grpc
from fuse.csi.core import capabilities, made, volumes
from fuse.csi.core.made import MadeVolume
from fuse.csi.core.volumes import shown
from fuse.csi.errors import BadRequest, NoSuchVolume
from fuse.csi.shell.catalogue import Catalogue
from fuse.csi.shell.edge import Context, capability_of, unary
from fuse.csi.shell.locks import NamedLocks

log = structlog.get_logger()

LOCK_SECONDS = 30.0


class MadeVolumes:
    """The files of made volumes. Not for threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, name: str) -> MadeVolume | None:
        """Return the volume of this name; a damaged file is none."""
        try:
            return MadeVolume(**json.loads(self._file(name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            log.warning("record_dropped", file=self._file(name).name, error=str(error))
            return None

    def put(self, volume: MadeVolume) -> None:
        """Remember a volume. OSError."""
        file = self._file(volume.name)
        temporary = file.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(volume)), encoding="utf-8")
        temporary.replace(file)

    def drop(self, volume_id: str) -> None:
        """Forget the volume of this id, if there is one. OSError."""
        for file in self._folder.glob("*.json"):
            try:
                is_it = json.loads(file.read_text(encoding="utf-8")).get("volume_id") == volume_id
            except (ValueError, AttributeError):
                continue
            if is_it:
                file.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()}.json"


class Controller(csi_pb2_grpc.ControllerServicer):
    """Volumes of the cluster."""

    def __init__(self, catalogue: Catalogue, made_volumes: MadeVolumes) -> None:
        self._catalogue = catalogue
        self._made = made_volumes
        self._locks = NamedLocks("volume name")

    @unary
    async def CreateVolume(self, request: csi.CreateVolumeRequest, context: Context) -> csi.CreateVolumeResponse:
        """A claim gets a volume id for its StorageClass's dataset."""
        asked = made.asked_for(
            request.name,
            request.parameters,
            [capability_of(each) for each in request.volume_capabilities],
            required_bytes=request.capacity_range.required_bytes,
            limit_bytes=request.capacity_range.limit_bytes,
            has_source=request.HasField("volume_content_source"),
        )
        async with self._locks.hold(shown(asked.name), LOCK_SECONDS):
            known = self._made.get(asked.name)
            if known is not None:
                made.check_same(known, asked)
            else:
                await self._catalogue.is_writable(asked.ref)  # that it is there at all
                self._made.put(asked)
        volume = csi.Volume(
            capacity_bytes=asked.required_bytes, volume_id=asked.volume_id, volume_context=asked.context
        )
        return csi.CreateVolumeResponse(volume=volume)

    @unary
    async def DeleteVolume(self, request: csi.DeleteVolumeRequest, context: Context) -> csi.DeleteVolumeResponse:
        """A claim is gone; the dataset and its files stay."""
        if not request.volume_id:
            raise BadRequest("volume_id is empty; it must be an id CreateVolume returned")
        self._made.drop(request.volume_id)
        return csi.DeleteVolumeResponse()

    @unary
    async def ValidateVolumeCapabilities(
        self, request: csi.ValidateVolumeCapabilitiesRequest, context: Context
    ) -> csi.ValidateVolumeCapabilitiesResponse:
        """Whether a volume can be mounted in all these ways."""
        volumes.check_volume_id(request.volume_id)
        if not request.volume_capabilities:
            raise BadRequest("volume_capabilities is empty; it must name at least one access mode and the type mount")
        if volumes.check_volume_id(request.volume_id) is None and not request.volume_context:
            raise NoSuchVolume(f"there is no volume {shown(request.volume_id)}; an id is NAMESPACE/DATASET/…")
        volume = volumes.parse_volume(request.volume_id, request.volume_context)
        writable = await self._catalogue.is_writable(volume.dataset)
        for message in request.volume_capabilities:
            capability = capability_of(message)
            problem = capabilities.objection(capability)
            if problem is None and capability.mode in capabilities.WRITER_MODES and not writable:
                problem = f"dataset {volume.dataset} is read-only, and {capability.mode.name} is for writing"
            if problem is not None:
                return csi.ValidateVolumeCapabilitiesResponse(message=problem)
        confirmed = csi.ValidateVolumeCapabilitiesResponse.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return csi.ValidateVolumeCapabilitiesResponse(confirmed=confirmed)

    @unary
    async def ControllerGetCapabilities(
        self, request: csi.ControllerGetCapabilitiesRequest, context: Context
    ) -> csi.ControllerGetCapabilitiesResponse:
        """What the calls above can do."""
        kinds = csi.ControllerServiceCapability.RPC
        rpc = kinds(type=kinds.CREATE_DELETE_VOLUME)
        return csi.ControllerGetCapabilitiesResponse(capabilities=[csi.ControllerServiceCapability(rpc=rpc)])
