"""`headrace logs`: what a pod's container printed, read through the API server.

Owns the request and its output. Does not talk to nodes: the API server does, with its own
certificate, so whoever may read `pods/log` may use this."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.config import load_config
from kube.errors import ConfigError, KubeError, NotFound
from kube.resources import PODS

#: A followed log may be silent for as long as it likes.
SILENCE_SECONDS = 3600.0


def logs(
    pod: Annotated[str, typer.Argument(help="name of the pod")],
    *,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="namespace of the pod")] = "default",
    container: Annotated[
        str | None, typer.Option("--container", "-c", help="container; needed if there are more")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on until the container ends")] = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="only the last lines")] = None,
    previous: Annotated[bool, typer.Option("--previous", "-p", help="of the start before the current one")] = False,
    timestamps: Annotated[bool, typer.Option("--timestamps", help="put the time before each line")] = False,
    kubeconfig: Annotated[Path | None, typer.Option("--kubeconfig", help="kubeconfig file")] = None,
) -> None:
    """Print the log of a pod's container."""
    params = {"follow": _word(follow), "previous": _word(previous), "timestamps": _word(timestamps)}
    if container is not None:
        params["container"] = container
    if tail is not None:
        params["tailLines"] = str(tail)
    try:
        asyncio.run(_print(pod, namespace, params, kubeconfig))
    except NotFound as error:
        raise UsageError(f"no log of pod {namespace}/{pod}: {error.message}") from error
    except (KubeError, ConfigError) as error:
        raise HeadraceError(f"the log of pod {namespace}/{pod} cannot be read: {error}") from error
    except KeyboardInterrupt:
        return


async def _print(pod: str, namespace: str, params: dict[str, str], kubeconfig: Path | None) -> None:
    config = load_config(kubeconfig)
    path = PODS.path(namespace, pod, "log")
    async with KubeClient(config, user_agent="headrace-logs") as client, client.stream(path, params=params) as stream:
        while True:
            chunk = await stream.read(SILENCE_SECONDS)
            if chunk == b"":
                return
            sys.stdout.buffer.write(chunk or b"")
            sys.stdout.buffer.flush()


def _word(value: bool) -> str:
    return "true" if value else "false"
