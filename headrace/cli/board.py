"""`headrace top` and `headrace dashboard`: the cluster at a glance, in a terminal or a browser.

Owns the command lines. What is shown is headrace/board's."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import msgspec
import typer
from rich.live import Live

from headrace.board.feed import Feed
from headrace.board.server import serving
from headrace.board.terminal import screen
from headrace.cli.connection import Kubeconfig, run
from headrace.cli.tables import console
from kube.client import KubeClient
from kube.http import serve

REFRESH_SECONDS: Final = 1.0

OneNamespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="only datasets, loads and jobs of this namespace")
]

Listen = Annotated[
    str,
    typer.Option("--listen", help="HOST:PORT; there is no login: keep it on loopback, or behind what you trust"),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command(epilog="Examples:  headrace top   |   headrace top --once   |   headrace top --once -o json")(top)
    app.command(epilog="Examples:  headrace dashboard   |   headrace dashboard --listen 127.0.0.1:0")(dashboard)


def top(
    *,
    once: Annotated[bool, typer.Option("--once", help="print once and end")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml (these imply --once)")] = "table",
    namespace: OneNamespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Caches, loads, jobs and who waits for what, as it changes. Ctrl-C ends it."""
    if output not in {"table", "json", "yaml"}:
        raise typer.BadParameter(f"{output!r} is not known; choose table, json or yaml", param_hint="--output")

    async def work(client: KubeClient) -> None:
        feed = Feed(client, namespace)
        async with feed.running():
            if output == "json":
                typer.echo(msgspec.json.format(msgspec.json.encode(feed.picture())).decode())
            elif output == "yaml":
                typer.echo(msgspec.yaml.encode(feed.picture()).decode(), nl=False)
            elif once or not console().is_terminal:
                console().print(screen(feed.picture(), feed.missing, feed.trouble))
            else:
                with Live(console=console(), screen=True, auto_refresh=False) as live:
                    while True:
                        shown = feed.version
                        live.update(screen(feed.picture(), feed.missing, feed.trouble), refresh=True)
                        await asyncio.sleep(REFRESH_SECONDS)
                        await feed.changed(REFRESH_SECONDS, shown)

    run(work, kubeconfig)


def dashboard(
    *,
    listen: Listen = "127.0.0.1:8400",
    metrics: Annotated[
        str | None, typer.Option("--metrics", help="HOST:PORT of /metrics, /healthz and /readyz; none = not served")
    ] = None,
    namespace: OneNamespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Serve the same as a web page: nodes and datasets, loads, jobs, gangs that wait. Read only; Ctrl-C ends it."""

    async def work(client: KubeClient) -> None:
        feed = Feed(client, namespace)
        async with serve(metrics), feed.running(), serving(feed, listen) as address:
            typer.echo(f"dashboard: {address}   (Ctrl-C ends it)")
            await asyncio.Event().wait()

    run(work, kubeconfig)
