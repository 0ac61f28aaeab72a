"""`headrace demo`: the main job, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command of this module to `app`."""
    app.command()(demo)


def demo(
    *,
    out: Annotated[Path, typer.Option("--out", help="folder for the picture and the figures")] = Path("demo-out"),
    rate: Annotated[str, typer.Option("--rate", help="bytes a second of the distant store, e.g. 8Mi")] = "8Mi",
    latency_ms: Annotated[int, typer.Option("--latency-ms", help="delay of each of its answers")] = 20,
    steps: Annotated[int, typer.Option("--steps", min=30, help="training steps of the first job")] = 60,
    keep: Annotated[bool, typer.Option("--keep", help="leave the cluster running, to look around")] = False,
) -> None:
    """Train on real files from a distant store, kill a pod, resume, and compare cold with warm.

    Exit code 1 when anything it claims did not hold. Leaves nothing running, unless --keep.
    """
    from headrace.demo.story import run

    if not run(out=out, rate=rate, latency_seconds=latency_ms / 1000, steps=steps, keep=keep):
        raise typer.Exit(1)
