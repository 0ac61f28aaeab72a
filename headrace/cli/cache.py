"""`headrace cache`: what a dataset may have of the cache, which paths stay, what is to leave now, and a new list now.

Owns the command line and the changes of the Dataset object; the cache controller tells metadata, which remembers, and
workers keep to it (cacheruntime/core/shares.py)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable
from math import floor
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from api import names
from api.conditions import timestamp
from api.data_v1alpha1 import SYNCED
from api.quantities import to_int
from headrace.cli import tables
from headrace.cli.connection import Kubeconfig, Namespace, run, sentences
from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient
from kube.errors import Conflict, Invalid, NotFound
from kube.resources import DATASETS, NODE_CACHES, NODES

Body = dict[str, Any]
console = Console(stderr=True)

TRIES = 5
"""At an object that others change at the same time."""
LOOK_SECONDS = 0.2

cache = typer.Typer(help="Say what stays in the cache and what leaves it; list a dataset anew.", no_args_is_help=True)
Dataset = Annotated[str, typer.Argument(help="name of the Dataset")]
Paths = Annotated[list[str], typer.Argument(help="files or directories inside the dataset; / = all of it")]
SomePaths = Annotated[
    list[str] | None, typer.Argument(help="files or directories inside the dataset; none = all of them")
]
Output = Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(cache, name="cache")


@cache.command("pin", epilog="Example:  headrace cache pin imagenet val labels.json")
def pin_command(
    dataset: Dataset,
    paths: Paths,
    *,
    output: Output = "table",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Keep what is cached of these paths, and lets it displace what is not pinned; it loads nothing (see DataLoad)."""
    wanted = _checked(paths)

    def change(spec: Body) -> None:
        spec["pinned"] = sorted({*_pinned(spec), *wanted})

    _change(dataset, change, output, namespace, kubeconfig)


@cache.command("unpin", epilog="Examples:  headrace cache unpin imagenet val   |   headrace cache unpin imagenet")
def unpin_command(
    dataset: Dataset,
    paths: SomePaths = None,
    *,
    output: Output = "table",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let pinned paths make room again, like everything else."""
    wanted = _checked(paths or [])

    def change(spec: Body) -> None:
        pinned = _pinned(spec)
        unknown = wanted - pinned
        if unknown:
            has = ", ".join(sorted(pinned)) or "nothing"
            raise UsageError(f"{sorted(unknown)[0]!r} of {dataset} is not pinned; pinned is {has}")
        spec["pinned"] = sorted(pinned - wanted) if wanted else []

    _change(dataset, change, output, namespace, kubeconfig)


@cache.command(
    "priority", epilog="Example:  headrace cache priority imagenet 10 --guaranteed 500Gi --maximum 2Ti   (0 = no share)"
)
def priority_command(
    dataset: Dataset,
    priority: Annotated[int | None, typer.Argument(help="-1000 to 1000; the dataset with less makes room")] = None,
    *,
    guaranteed: Annotated[str | None, typer.Option(help="bytes of the pool nobody takes from it; 0 = none")] = None,
    maximum: Annotated[str | None, typer.Option(help="bytes of the pool it never exceeds; 0 = no limit")] = None,
    output: Output = "table",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Set a dataset's priority and shares in a full cache; what is not given stays."""
    sizes = {"guaranteed": _bytes("--guaranteed", guaranteed), "maximum": _bytes("--maximum", maximum)}

    def change(spec: Body) -> None:
        if priority is not None:
            spec["priority"] = priority
        for name, text in (("guaranteed", guaranteed), ("maximum", maximum)):
            if text is not None:
                spec[name] = text if sizes[name] else None
        least, most = to_int(spec.get("guaranteed") or 0), to_int(spec.get("maximum") or 0)
        if 0 < most < least:
            raise UsageError(
                f"maximum {spec['maximum']} of {dataset} is less than guaranteed {spec['guaranteed']}; set both"
            )

    _change(dataset, change, output, namespace, kubeconfig)


@cache.command("evict", epilog="Examples:  headrace cache evict imagenet train/old   |   headrace cache evict imagenet")
def evict_command(
    dataset: Dataset,
    paths: SomePaths = None,
    *,
    timeout: Annotated[float, typer.Option(help="seconds to wait for the workers; 0 = do not wait")] = 60.0,
    output: Output = "table",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Drop paths from every worker's cache now; who has a file open reads on. The under store is not touched."""
    wanted = _checked(paths or ["/"])

    async def work(client: KubeClient) -> Body:
        await _ask_to_evict(client, namespace, dataset, wanted)
        deadline = time.monotonic() + timeout
        while True:
            body = await client.get(DATASETS, dataset, namespace)
            if not timeout or names.DATASET_EVICT_ANNOTATION not in (body["metadata"].get("annotations") or {}):
                return body
            if time.monotonic() > deadline:
                raise HeadraceError(
                    f"the cache controller has not evicted {dataset} within {timeout} s; it will as soon as it can"
                )
            await asyncio.sleep(LOOK_SECONDS)

    _print(run(work, kubeconfig), output)


@cache.command("sync", epilog="Example:  headrace cache sync imagenet && headrace submit -f job.yaml")
def sync_command(
    dataset: Dataset,
    *,
    timeout: Annotated[float, typer.Option(help="seconds to wait for the new list; 0 = do not wait")] = 3600.0,
    output: Output = "table",
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """List a dataset's under store anew now, and wait until what has changed there is visible to readers."""

    async def work(client: KubeClient) -> Body:
        # Times of Kubernetes are whole seconds: a listing of this second may have begun before now.
        since = timestamp(floor(time.time()) + 1)
        asked = {"metadata": {"annotations": {names.DATASET_SYNC_ANNOTATION: since}}}
        body = await client.patch(DATASETS, dataset, asked, namespace)
        deadline = time.monotonic() + timeout
        with console.status(f"listing {dataset}") as spinner:
            while timeout and not _is_listed_since(body, since):
                if time.monotonic() > deadline:
                    text = f"{dataset} is not listed within {timeout} s; it is as soon as the cache controller can"
                    raise HeadraceError(text)
                await asyncio.sleep(LOOK_SECONDS)
                body = await client.get(DATASETS, dataset, namespace)
                spinner.update(f"listing {dataset}: {(body.get('status') or {}).get('fileNum') or 0} files")
        return body

    tables.print_objects(tables.LISTED, [run(work, kubeconfig)], output, with_namespace=False)


@cache.command("drain", epilog="Examples:  headrace cache drain node-7   |   headrace cache drain node-7 --undo")
def drain_command(
    node: Annotated[str, typer.Argument(help="name of the Node")],
    *,
    undo: Annotated[bool, typer.Option("--undo", help="it stays after all")] = False,
    timeout: Annotated[float, typer.Option(help="seconds to wait until it is done; 0 = do not wait")] = 3600.0,
    output: Output = "table",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Have a node's cache hand its blocks over to the others, hottest first, before the node goes; reads go on."""

    async def work(client: KubeClient) -> Body:
        annotations = {names.NODE_DRAIN_ANNOTATION: None if undo else "true"}
        await client.patch(NODES, node, {"metadata": {"annotations": annotations}})
        deadline = time.monotonic() + timeout
        while True:
            body = await _node_cache(client, node)
            leaving = (body.get("status") or {}).get("leaving")
            if not timeout or (leaving is None if undo else leaving is not None and leaving.get("done")):
                return body
            if time.monotonic() > deadline:
                raise HeadraceError(f"the cache of {node} is not handed over within {timeout} s; it goes on: {leaving}")
            await asyncio.sleep(LOOK_SECONDS)

    tables.print_objects(tables.DRAINED, [run(work, kubeconfig)], output, with_namespace=False)


async def _node_cache(client: KubeClient, node: str) -> Body:
    try:
        return await client.get(NODE_CACHES, node)
    except NotFound:  # its worker has only just begun, and the cache controller has not told of it yet
        return {"metadata": {"name": node}}


def _is_listed_since(body: Body, since: str) -> bool:
    """Whether its newest list began no earlier; HeadraceError when listing failed since."""
    status = body.get("status") or {}
    told = status.get("metadataSync") or {}
    # Such times sort as they follow each other.
    if told.get("failures") and (told.get("triedAt") or "") >= since:
        synced: Body = next((one for one in status.get("conditions") or () if one["type"] == SYNCED), {})
        why = synced.get("message") or "its conditions say why"
        raise HeadraceError(f"{body['metadata']['name']} could not be listed: {why}")
    return (told.get("listedAt") or "") >= since


async def _ask_to_evict(client: KubeClient, namespace: str, dataset: str, wanted: set[str]) -> None:
    def change(body: Body) -> Body:
        pinned = _pinned(body["spec"].get("cache") or {})
        for path in sorted(wanted):
            held = next((one for one in sorted(pinned) if _is_below(one, path) or _is_below(path, one)), None)
            if held is not None:
                raise UsageError(f"{path!r} of {dataset} cannot be evicted: {held!r} is pinned; unpin it first")
        asked = json.loads((body["metadata"].get("annotations") or {}).get(names.DATASET_EVICT_ANNOTATION, "[]"))
        text = json.dumps(sorted({*asked, *wanted}))
        return {"metadata": {"annotations": {names.DATASET_EVICT_ANNOTATION: text}}}

    await _patch(client, namespace, dataset, change)


def _change(dataset: str, change: Callable[[Body], None], output: str, namespace: str, kubeconfig: Path | None) -> None:
    def patch(body: Body) -> Body:
        spec = dict(body["spec"].get("cache") or {})
        change(spec)
        return {"spec": {"cache": spec}}

    _print(run(lambda client: _patch(client, namespace, dataset, patch), kubeconfig), output)


async def _patch(client: KubeClient, namespace: str, dataset: str, change: Callable[[Body], Body]) -> Body:
    """Change the object as it is now; again when somebody else changed it meanwhile."""
    for tries_left in reversed(range(TRIES)):
        body = await client.get(DATASETS, dataset, namespace)
        patch = change(body)
        patch.setdefault("metadata", {})["resourceVersion"] = body["metadata"]["resourceVersion"]
        try:
            return await client.patch(DATASETS, dataset, patch, namespace)
        except Conflict:
            if not tries_left:
                raise
        except Invalid as error:
            raise UsageError("; ".join(sentences(error))) from error
    raise AssertionError("the last try returns or raises")


def _print(body: Body, output: str) -> None:
    tables.print_objects(tables.CACHE_TERMS, [body], output, with_namespace=False)


def _checked(paths: Iterable[str]) -> set[str]:
    """Paths as the object has them: "/" or without slashes around. UsageError."""
    found = set()
    for path in paths:
        names_in_it = path.strip("/").split("/")
        if path.strip("/") and any(name in ("", ".", "..") for name in names_in_it):
            raise UsageError(f"path {path!r} must have real names between '/', like train/a.bin")
        found.add(path.strip("/") or "/")
    return found


def _pinned(spec: Body) -> set[str]:
    return {path.strip("/") or "/" for path in spec.get("pinned") or []}


def _is_below(path: str, other: str) -> bool:
    return other in ("/", path) or path.startswith(f"{other}/")


def _bytes(flag: str, text: str | None) -> int:
    if text is None:
        return 0
    try:
        size = to_int(text)
    except ValueError as error:
        raise UsageError(f"{flag} {text!r}: {error}") from error
    if size < 0:
        raise UsageError(f"{flag} is {text}; it must be 0 or more, like 500Gi")
    return size
