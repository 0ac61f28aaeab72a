"""`headrace sim whatif`: a live cluster, read and never written, and the same cluster changed.

Owns reading and options. What becomes of it is simulations/whatif.py's."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from headrace.cli.connection import run
from headrace.cli.progress import Bar
from headrace.errors import UsageError
from kube.client import KubeClient
from kube.errors import NotFound
from kube.objects import Dataset, Node, NodeCache, Pod
from kube.resources import DATASETS, NODE_CACHES, NODES, PODS, Resource

T = TypeVar("T")


def whatif(
    *,
    cluster: Annotated[
        Path | None, typer.Option("--cluster", help="its kubeconfig; default: $KUBECONFIG, ~/.kube/config, in-cluster")
    ] = None,
    cache_nodes: Annotated[
        list[int] | None,
        typer.Option("--add-cache-nodes", min=1, help="so many more nodes that only cache"),
    ] = None,
    ssd: Annotated[list[float] | None, typer.Option("--ssd", min=0, help="every SSD tier times this")] = None,
    cordon: Annotated[
        list[str] | None,
        typer.Option("--cordon", metavar="KEY=VALUE", help="these nodes take no pods"),
    ] = None,
    compute_seconds: Annotated[float, typer.Option("--compute-seconds", min=1, help="of a waiting job")] = 3600,
    read_speed: Annotated[
        float, typer.Option("--read-speed-per-gpu", min=1, help="bytes a second a GPU reads when nothing is waited for")
    ] = 100e6,
    output: Annotated[str, typer.Option("-o", "--output", help="table, json or yaml")] = "table",
) -> None:
    """Simulate the jobs that wait in a live cluster, as it is and changed. Reads only.

    Each question may be asked several times, each is answered by itself; without any: two more cache nodes, twice the
    SSD.
    """
    from headrace.cli.sim import show
    from simulations.errors import ScenarioError
    from simulations.whatif import Assumed, Questions, ask

    asked = Questions(tuple(cache_nodes or ()), tuple(ssd or ()), tuple(cordon or ()))
    if asked == Questions():
        asked = Questions((2,), (2.0,))
    live = run(_read, cluster)
    try:
        with Bar() as bar:
            found = ask(live, Assumed(compute_seconds, read_speed), asked, progress=bar.tell)
    except ScenarioError as error:
        raise UsageError(str(error)) from None
    show(found, output)


async def _read(client: KubeClient) -> Any:
    from simulations.whatif import Live

    return Live(
        await _list(client, NODES, Node),
        await _list(client, NODE_CACHES, NodeCache),
        await _list(client, DATASETS, Dataset),
        await _list(client, PODS, Pod),
    )


async def _list(client: KubeClient, resource: Resource, kind: type[T]) -> list[T]:
    try:
        return (await client.list(resource, decode=kind)).items
    except NotFound:
        # The kind's CRD is not installed.
        return []
