"""`headrace up`, `status`, `down`: the local cluster.

Owns options and output. What is done is in `headrace/cluster/`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from headrace.cluster.state import default_root

Name = Annotated[str, typer.Option("--name", help="name of the cluster; several run side by side")]
Dir = Annotated[
    Path | None, typer.Option("--dir", help="folder of the cluster; default: below the user's state folder")
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (up, status, down):
        app.command()(command)


def folder(name: str, directory: Path | None) -> Path:
    """Return the folder of a cluster."""
    return directory or default_root(name, os.environ)


def up(
    *,
    name: Name = "default",
    directory: Dir = None,
    nodes: Annotated[
        str | None,
        typer.Option("--nodes", help="process nodes, or real[:NUMBER], which run containers [default: 3]"),
    ] = None,
    cpu: Annotated[str | None, typer.Option("--cpu", help="CPUs a node offers [default: 8]")] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="memory a node offers [default: 16Gi]")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="GPUs a node offers; indices only [default: 2]")] = None,
    mem_tier: Annotated[str | None, typer.Option("--mem-tier", help="cache in memory, a node [default: 256Mi]")] = None,
    ssd_tier: Annotated[str | None, typer.Option("--ssd-tier", help="cache on disk, a node [default: 10Gi]")] = None,
    port: Annotated[int | None, typer.Option("--port", help="port of the API server; default: any free one")] = None,
    control_plane_only: Annotated[
        bool | None, typer.Option("--control-plane-only/--all-parts", help="Kubernetes only, nothing of ours")
    ] = None,
    trust: Annotated[
        bool | None,
        typer.Option("--trust/--no-trust", help="certificates and tokens between our parts [default: on]"),
    ] = None,
) -> None:
    """Start a cluster on this machine, or bring back what is missing of it.

    Examples:  headrace up  |  headrace up --nodes 5 --gpus 8  |  headrace up --nodes real  |  headrace up --name other
    """
    from headrace.cluster.local_cluster import LocalCluster
    from headrace.cluster.options import parse_nodes

    console = Console()
    given = {
        **(parse_nodes(nodes) if nodes is not None else {}),
        "cpu": cpu,
        "memory": memory,
        "gpus": gpus,
        "mem_tier": mem_tier,
        "ssd_tier": ssd_tier,
        "port": port,
        "trust": trust,
        "parts": None if control_plane_only is None else not control_plane_only,
    }
    with console.status("starting") as spinner:
        cluster = LocalCluster(name, folder(name, directory), spinner.update)
        options = cluster.up(given)
    kind = "real" if options.real else "process"
    count = options.nodes if options.parts or options.real else 0
    console.print(f"cluster {name!r} is up: {count} {kind} nodes")
    if options.parts and not options.real:
        console.print(
            "Process nodes run pods as processes of this machine: mount paths and host names are their own, "
            "nothing else is isolated."
        )
    if options.parts and options.real:
        console.print(
            "Our parts run as pods (manifests/overlays/local-trust), with certificates and tokens between them."
            if options.trust
            else "Our parts run as pods (manifests/overlays/local), without certificates between them."
        )
    console.print(f"  export KUBECONFIG={cluster.kubeconfig}", soft_wrap=True, highlight=False)
    console.print("  headrace status | headrace submit -f job.yaml --follow | headrace down")


def status(
    *,
    name: Name = "default",
    directory: Dir = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")] = "table",
) -> None:
    """Show what runs, and what each node has: GPUs, cache, pods. Exit code 1 when something is down."""
    from headrace.cluster.overview import look
    from headrace.cluster.overview_text import render

    overview = look(name, folder(name, directory))
    render(overview, output, Console())
    if not overview.is_healthy:
        raise typer.Exit(1)


def down(
    *,
    name: Name = "default",
    directory: Dir = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="remove the cluster's folder too: objects, caches, logs")
    ] = False,
) -> None:
    """Stop what `up` started, and unmount. Objects stay in the folder for the next `up`, unless purged."""
    from headrace.cluster.local_cluster import LocalCluster

    console = Console()
    with console.status("stopping") as spinner:
        LocalCluster(name, folder(name, directory), spinner.update).down(purge=purge)
    console.print(f"cluster {name!r} is down" + (", its folder is removed" if purge else ""))
