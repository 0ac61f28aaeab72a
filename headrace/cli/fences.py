"""Fences of a node, asked of the metadata service: which directories of datasets it may not change, and for which pods.

Owns the question. The API server knows nothing of fences; `--metadata` says where the service is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.trust.identity import METADATA_SERVER
from headrace.errors import HeadraceError, UsageError

CALL_SECONDS = 10.0
NS = 10**9


class FencesUnknown(HeadraceError):
    """The metadata service did not tell of fences."""


def fences_of(address: str, trust: Path | None, node: str) -> list[Any]:
    """Return the fences of a node, oldest first. FencesUnknown, UsageError."""
    import grpc

    from api.gen import metadata_pb2, metadata_pb2_grpc
    from api.trust.channels import open_blocking_channel
    from api.trust.files import TrustError, TrustFiles

    try:
        files = TrustFiles(trust) if trust is not None else None
    except TrustError as error:
        raise UsageError(f"--trust: {error}") from error
    with open_blocking_channel(address, files, METADATA_SERVER) as channel:
        try:
            request = metadata_pb2.ListFencesRequest(node=node)
            answer = metadata_pb2_grpc.FencesStub(channel).List(request, timeout=CALL_SECONDS)
        except grpc.RpcError as error:
            call: Any = error  # it is a grpc.Call too, which the types do not know
            raise FencesUnknown(f"the metadata service at {address} tells of no fences: {call.details()}") from error
    return sorted(answer.fences, key=lambda fence: fence.raised_at_ns)


def rows(fences: list[Any], labels: Mapping[str, str], now: float) -> list[tuple[str, str, str, str]]:
    """Return dataset, directory, age and pods of each; `labels`: namespace/name of Datasets by uid."""
    from headrace.board.terminal import duration

    return [
        (
            labels.get(fence.uid, fence.uid),
            fence.path or "all of it",
            duration(max(0.0, now - fence.raised_at_ns / NS)),
            ", ".join(fence.pods),
        )
        for fence in fences
    ]
