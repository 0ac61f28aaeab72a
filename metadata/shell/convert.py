"""Protobuf messages ↔ the core's data. Owns field-by-field copying; checks nothing."""

from collections.abc import Iterable
from typing import Final

from api.gen import metadata_pb2 as pb
from metadata.core.checkpoints import Checkpoint
from metadata.core.datasets import CacheTerms, Dataset, Mount, Specification
from metadata.core.entries import Entry
from metadata.core.fences import Fence
from metadata.core.residency import Held, Residence
from metadata.core.workers import ReadCounters, Registration, Tier, Worker, WorkerReadings

UINT64_MAX: Final = (1 << 64) - 1


def uint64(number: int) -> int:
    """A sum for a field that holds no more: too large only where workers lie, which is no reason to answer nobody."""
    return min(number, UINT64_MAX)


def specification(request: pb.SyncRequest) -> Specification:
    """What a Sync says of its dataset."""
    return Specification(
        uid=request.uid,
        namespace=request.namespace,
        name=request.name,
        mounts=tuple(
            Mount(
                mount.mount_point,
                mount.path.strip("/"),
                mount.name,
                dict(mount.options),
                dict(mount.secret_options),
                mount.read_only,
            )
            for mount in request.mounts
        ),
        eligible_nodes=tuple(request.eligible_nodes),
        writable=request.writable,
        local_copies=request.local_copies,
        replicas=request.replicas or 1,
        terms=CacheTerms(
            request.terms.priority,
            request.terms.guaranteed_bytes,
            request.terms.maximum_bytes,
            tuple(request.terms.pinned),
            request.terms.origin_bytes_per_second,
        ),
        write_back=request.write_back,
    )


def mount_message(mount: Mount) -> pb.Mount:
    """A mount as others see it: file names of secrets, never values."""
    return pb.Mount(
        mount_point=mount.mount_point,
        name=mount.name,
        path=mount.path,
        options=mount.options,
        secret_options=mount.secret_options,
        read_only=mount.read_only,
    )


def state_message(dataset: Dataset) -> pb.DatasetState:
    """What a mount must know of a dataset."""
    specification = dataset.specification
    return pb.DatasetState(
        uid=specification.uid,
        namespace=specification.namespace,
        name=specification.name,
        snapshot_version=uint64(dataset.version),
        writable=specification.writable,
        files=uint64(dataset.files),
        bytes=uint64(dataset.bytes),
    )


def dataset_message(dataset: Dataset) -> pb.DatasetInfo:
    """The durable part of a DatasetInfo; progress and residency are added by the caller."""
    specification = dataset.specification
    return pb.DatasetInfo(
        uid=specification.uid,
        namespace=specification.namespace,
        name=specification.name,
        snapshot_version=dataset.version,
        files=dataset.files,
        bytes=dataset.bytes,
        synced_at_ns=dataset.synced_at_ns,
        error=dataset.error,
        error_reason=dataset.error_reason,
        mounts=[mount_message(mount) for mount in specification.mounts],
        eligible_nodes=specification.eligible_nodes,
        former_nodes=specification.former_nodes,
        writable=specification.writable,
        local_copies=specification.local_copies,
        replicas=specification.replicas,
        terms=pb.CacheTerms(
            priority=specification.terms.priority,
            guaranteed_bytes=specification.terms.guaranteed_bytes,
            maximum_bytes=specification.terms.maximum_bytes,
            pinned=specification.terms.pinned,
            origin_bytes_per_second=specification.terms.origin_bytes_per_second,
        ),
        listing=pb.LastListing(
            began_at_ns=dataset.listing.began_at_ns,
            ended_at_ns=dataset.listing.ended_at_ns,
            failures=dataset.listing.failures,
            good_began_at_ns=dataset.listing.good_began_at_ns,
            added=dataset.listing.added,
            changed=dataset.listing.changed,
            removed=dataset.listing.removed,
        ),
        write_back=specification.write_back,
        held_files=dataset.held.files,
        held_bytes=dataset.held.bytes,
        fences=[fence_message(fence) for fence in dataset.fences],
    )


def fence_message(fence: Fence, uid: str = "") -> pb.Fence:
    """One fence, of the dataset with that uid."""
    return pb.Fence(uid=uid, node=fence.node, path=fence.path, pods=fence.pods, raised_at_ns=fence.raised_at_ns)


def entry_message(entry: Entry) -> pb.Entry:
    """One entry."""
    return pb.Entry(
        path=entry.path,
        is_directory=entry.is_directory,
        size_bytes=entry.size_bytes,
        etag=entry.etag,
        mtime_ns=entry.mtime_ns,
        mode=entry.mode,
        version=entry.version,
    )


def tiers(messages: Iterable[pb.Tier]) -> tuple[Tier, ...]:
    """Tiers of a registration or a report."""
    return tuple(
        Tier(tier.medium, tier.capacity_bytes, tier.used_bytes, tier.read_bytes_per_second) for tier in messages
    )


def registration(request: pb.RegisterRequest) -> Registration:
    """A worker's registration."""
    return Registration(
        request.node, request.epoch, request.data_endpoint, request.control_endpoint, tiers(request.tiers)
    )


def _counters(message: pb.ReadCounters) -> ReadCounters:
    return ReadCounters(message.local_bytes, message.peer_bytes, message.origin_bytes)


def counters_message(counters: ReadCounters) -> pb.ReadCounters:
    """Bytes by where they came from."""
    return pb.ReadCounters(
        local_bytes=counters.local_bytes, peer_bytes=counters.peer_bytes, origin_bytes=counters.origin_bytes
    )


def readings(report: pb.BlockReport) -> WorkerReadings:
    """What a report says of the worker itself."""
    counters = report.counters
    return WorkerReadings(
        tiers(report.tiers),
        report.network_read_bytes_per_second,
        report.origin_read_bytes_per_second,
        _counters(counters),
        {one.uid: _counters(one.recent) for one in report.reads},
        report.leaving,
    )


def residence(file: pb.ResidentFile) -> Residence:
    """One line of a block report."""
    held = Held(file.medium, file.size_bytes, file.resident_bytes, file.blocks, file.block_size_bytes)
    return Residence(file.uid, file.path, file.etag, held)


def worker_message(worker: Worker) -> pb.Worker:
    """A worker as others see it."""
    registration, readings = worker.registration, worker.readings
    return pb.Worker(
        node=registration.node,
        epoch=registration.epoch,
        data_endpoint=registration.data_endpoint,
        control_endpoint=registration.control_endpoint,
        alive=worker.is_alive,
        leaving=readings.is_leaving,
        tiers=[
            pb.Tier(
                medium=tier.medium,
                capacity_bytes=tier.capacity_bytes,
                used_bytes=tier.used_bytes,
                read_bytes_per_second=tier.read_bytes_per_second,
            )
            for tier in readings.tiers
        ],
        network_read_bytes_per_second=readings.network_read_bytes_per_second,
        origin_read_bytes_per_second=readings.origin_read_bytes_per_second,
        counters=counters_message(readings.counters),
    )


def checkpoint_message(checkpoint: Checkpoint, nodes: dict[str, int]) -> pb.Checkpoint:
    """One checkpoint and who holds it."""
    return pb.Checkpoint(
        step=checkpoint.step,
        path=checkpoint.path,
        complete=checkpoint.complete,
        files=checkpoint.files,
        bytes=checkpoint.bytes,
        nodes=nodes,
        completed_at_ns=checkpoint.completed_at_ns,
        problem=checkpoint.problem,
        seal=checkpoint.seal,
    )
