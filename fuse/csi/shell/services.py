"""CSI's Identity and Node services: validate, call, answer."""

from importlib.metadata import version

from api import names
from api.gen import csi_pb2 as csi
from api.gen import csi_pb2_grpc
from fuse.csi.core import capabilities, volumes
from fuse.csi.core.capabilities import Capability
from fuse.csi.core.owners import owner_of
from fuse.csi.errors import BadRequest, NotOffered
from fuse.csi.shell.catalogue import Catalogue
from fuse.csi.shell.edge import Context, capability_of, unary
from fuse.csi.shell.node import NodeVolumes


class Identity(csi_pb2_grpc.IdentityServicer):
    """Who we are, and whether we are ready."""

    def __init__(self, catalogue: Catalogue, *, has_controller: bool) -> None:
        self._catalogue = catalogue
        self._has_controller = has_controller

    @unary
    async def GetPluginInfo(self, request: csi.GetPluginInfoRequest, context: Context) -> csi.GetPluginInfoResponse:
        """Name and version."""
        return csi.GetPluginInfoResponse(name=names.CSI_DRIVER, vendor_version=version("headrace"))

    @unary
    async def GetPluginCapabilities(
        self, request: csi.GetPluginCapabilitiesRequest, context: Context
    ) -> csi.GetPluginCapabilitiesResponse:
        """Whether the controller's calls are here too."""
        kind = csi.PluginCapability.Service.CONTROLLER_SERVICE
        controller = csi.PluginCapability(service=csi.PluginCapability.Service(type=kind))
        return csi.GetPluginCapabilitiesResponse(capabilities=[controller] if self._has_controller else [])

    @unary
    async def Probe(self, request: csi.ProbeRequest, context: Context) -> csi.ProbeResponse:
        """Ready when the metadata service answers: without it no new volume can be mounted."""
        return csi.ProbeResponse(ready=csi.Ready(value=await self._catalogue.is_answering()))


class Node(csi_pb2_grpc.NodeServicer):
    """Volumes on this node."""

    def __init__(self, name: str, node: NodeVolumes) -> None:
        self._name = name
        self._node = node

    @unary
    async def NodeStageVolume(
        self, request: csi.NodeStageVolumeRequest, context: Context
    ) -> csi.NodeStageVolumeResponse:
        """The first pod of a volume on this node is coming."""
        volumes.check_volume_id(request.volume_id)
        _required(request.staging_target_path, "staging_target_path")
        capability = _capability(request.HasField("volume_capability"), request.volume_capability)
        volume = volumes.parse_volume(request.volume_id, request.volume_context)
        await self._node.stage(volume, request.staging_target_path, capability)
        return csi.NodeStageVolumeResponse()

    @unary
    async def NodeUnstageVolume(
        self, request: csi.NodeUnstageVolumeRequest, context: Context
    ) -> csi.NodeUnstageVolumeResponse:
        """The last pod of a volume on this node is gone."""
        volumes.check_volume_id(request.volume_id)
        _required(request.staging_target_path, "staging_target_path")
        await self._node.unstage(request.volume_id, request.staging_target_path)
        return csi.NodeUnstageVolumeResponse()

    @unary
    async def NodePublishVolume(
        self, request: csi.NodePublishVolumeRequest, context: Context
    ) -> csi.NodePublishVolumeResponse:
        """A pod gets the volume."""
        volumes.check_volume_id(request.volume_id)
        _required(request.target_path, "target_path")
        capability = _capability(request.HasField("volume_capability"), request.volume_capability)
        volume = volumes.parse_volume(request.volume_id, request.volume_context)
        owner = owner_of(request.volume_context, capability.mount_group)
        await self._node.publish(volume, request.target_path, capability, readonly=request.readonly, owner=owner)
        return csi.NodePublishVolumeResponse()

    @unary
    async def NodeUnpublishVolume(
        self, request: csi.NodeUnpublishVolumeRequest, context: Context
    ) -> csi.NodeUnpublishVolumeResponse:
        """A pod is done with the volume."""
        volumes.check_volume_id(request.volume_id)
        _required(request.target_path, "target_path")
        await self._node.unpublish(request.volume_id, request.target_path)
        return csi.NodeUnpublishVolumeResponse()

    @unary
    async def NodeGetVolumeStats(
        self, request: csi.NodeGetVolumeStatsRequest, context: Context
    ) -> csi.NodeGetVolumeStatsResponse:
        """Room of a volume, or what is wrong with it."""
        volumes.check_volume_id(request.volume_id)
        _required(request.volume_path, "volume_path")
        found = await self._node.statistics(request.volume_id, request.volume_path)
        if found.problem:
            condition = csi.VolumeCondition(abnormal=True, message=found.problem)
            return csi.NodeGetVolumeStatsResponse(volume_condition=condition)
        usage = [
            csi.VolumeUsage(
                unit=csi.VolumeUsage.BYTES,
                total=found.total_bytes,
                available=found.available_bytes,
                used=found.used_bytes,
            ),
            csi.VolumeUsage(
                unit=csi.VolumeUsage.INODES,
                total=found.total_files,
                available=found.available_files,
                used=found.used_files,
            ),
        ]
        return csi.NodeGetVolumeStatsResponse(
            usage=usage, volume_condition=csi.VolumeCondition(abnormal=False, message="the mount answers")
        )

    @unary
    async def NodeExpandVolume(
        self, request: csi.NodeExpandVolumeRequest, context: Context
    ) -> csi.NodeExpandVolumeResponse:
        """Refused: a dataset is as large as what is in it."""
        raise NotOffered("a dataset cannot be expanded, it has no size of its own; set allowVolumeExpansion: false")

    @unary
    async def NodeGetCapabilities(
        self, request: csi.NodeGetCapabilitiesRequest, context: Context
    ) -> csi.NodeGetCapabilitiesResponse:
        """What the calls above can do."""
        kinds = csi.NodeServiceCapability.RPC
        offered = [kinds.STAGE_UNSTAGE_VOLUME, kinds.GET_VOLUME_STATS, kinds.VOLUME_CONDITION]
        if self._node.maps_owners:
            offered.append(kinds.VOLUME_MOUNT_GROUP)
        return csi.NodeGetCapabilitiesResponse(
            capabilities=[csi.NodeServiceCapability(rpc=kinds(type=kind)) for kind in offered]
        )

    @unary
    async def NodeGetInfo(self, request: csi.NodeGetInfoRequest, context: Context) -> csi.NodeGetInfoResponse:
        """The node's name. No limit of volumes: they are bind mounts of a few daemons."""
        return csi.NodeGetInfoResponse(node_id=self._name)


def _required(value: str, field: str) -> None:
    if not value:
        raise BadRequest(f"{field} is empty; it must be an absolute path below kubelet's folder")


def _capability(is_there: bool, message: csi.VolumeCapability) -> Capability:
    return capabilities.check(capability_of(message) if is_there else None)
