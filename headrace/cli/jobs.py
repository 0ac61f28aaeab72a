"""Commands on jobs and data: submit, get, describe, suspend, resume, delete; explain is in why.py.

Owns the command line and what is fetched; layouts and wordings are in tables.py, describe.py."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.cli import describe, fences, tables, user_files, why
from headrace.cli.connection import Kubeconfig, Namespace, run, sentences
from headrace.cli.follow import Follower
from headrace.cli.user_files import UserObject
from headrace.cli.waiting import bar
from headrace.errors import HeadraceError, UsageError
from kube.client import KubeClient, PatchKind
from kube.errors import AlreadyExists, Invalid, NotFound
from kube.resources import DATA_LOADS, DATASETS, EVENTS, PODS, TRAINING_JOBS, Resource

FIELD_MANAGER = "headrace-submit"
#: kinds that do one thing once: submitting one again is a mistake, not an update
_ONCE = (TRAINING_JOBS, DATA_LOADS, PODS)

Body = dict[str, Any]
Name = Annotated[str, typer.Argument(help="name of the object")]
What = Annotated[str, typer.Argument(help="pod or job")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (submit, get, suspend, resume, delete):
        app.command()(command)
    app.command(name="describe")(describe_command)
    app.command(name="explain")(why.explain_command)


def submit(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML with one or more objects; - = standard input")],
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="wait for the end of the jobs; exit code 1 if one fails")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="as --wait, and print what the pods print")] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Send the objects of a YAML file to the cluster: jobs are created, datasets and others applied."""
    objects = user_files.read(file, namespace)

    async def work(client: KubeClient) -> bool:
        for one in objects:
            await _send(client, one)
            typer.echo(f"{one.title} submitted")
        if not (wait or follow):
            return True
        jobs = [one for one in objects if one.resource is TRAINING_JOBS]
        with bar() if len(jobs) == 1 else nullcontext((typer.echo, lambda _: None)) as (say, show):
            followers = [Follower(client, one.namespace or namespace, one.name, say, show) for one in jobs]
            ends = await asyncio.gather(*(follower.until_finished(with_logs=follow) for follower in followers))
        return all(ends)

    if not run(work, kubeconfig):
        raise typer.Exit(1)


async def _send(client: KubeClient, one: UserObject) -> None:
    # Strict: a misspelt field would otherwise be dropped without a word.
    params = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    body = json.dumps(one.body, default=str).encode()
    try:
        if one.resource in _ONCE:
            await client.request("POST", one.resource.path(one.namespace), body=body, params=params)
        else:
            path = one.resource.path(one.namespace, one.name)
            params["force"] = "true"
            await client.request("PATCH", path, body=body, content_type=PatchKind.APPLY.value, params=params)
    except Invalid as error:
        wrong = "".join(f"\n  {sentence}" for sentence in sentences(error))
        raise UsageError(f"{one.where}: {one.title} is not valid:{wrong}") from error
    except AlreadyExists as error:
        kind = "job" if one.resource is TRAINING_JOBS else "object"
        raise UsageError(
            f"{one.where}: {one.title} exists already; delete it, or give this {kind} another name"
        ) from error
    except NotFound as error:
        raise UsageError(f"{one.where}: {one.title} cannot be created: {error.message}") from error


def get(
    what: Annotated[str, typer.Argument(help="jobs, crons, queues, datasets, loads, runtimes or nodes")],
    name: Annotated[str | None, typer.Argument(help="only this one")] = None,
    *,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")] = "table",
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="of every namespace")] = False,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs, crons, queues, datasets, loads, pools of cache workers, or what nodes have cached."""
    listing = tables.listing(what)
    place = namespace if listing.resource.namespaced and not all_namespaces else None

    async def work(client: KubeClient) -> list[Body]:
        if name is not None:
            where = namespace if listing.resource.namespaced else None
            return [await client.get(listing.resource, name, where)]
        found = (await client.list(listing.resource, place)).items
        return sorted(found, key=lambda body: (body["metadata"].get("namespace", ""), body["metadata"]["name"]))

    items = run(work, kubeconfig)
    if not items and output == "table":
        where = f" in namespace {place}" if place else ""
        typer.echo(f"no {what}{where}", err=True)
        return
    tables.print_objects(listing, items, output, with_namespace=all_namespaces)


def describe_command(
    what: Annotated[str, typer.Argument(help="job, dataset, load, runtime or node")],
    name: Name,
    *,
    namespace: Namespace = "default",
    metadata: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="of a node also its fences, by this metadata service")
    ] = None,
    trust: Annotated[Path | None, typer.Option(help="folder with an administrator's certificate for it")] = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show a job: state, pods, checkpoints, seconds by activity, events; a dataset: what is cached, hit ratios; how
    far a load is; the workers of a runtime; or what a node has cached, and what it may not write to (--metadata)."""
    _expect(what, "job", "dataset", "load", "runtime", "node")
    if metadata is not None and what != "node":
        raise UsageError(f"--metadata tells of a node's fences; leave it out for a {what}")
    resource = tables.listing(what).resource

    async def work(client: KubeClient) -> tuple[Body, list[Body], list[Body]]:
        body = await client.get(resource, name, namespace if resource.namespaced else None)
        pods = await why.pods_of(client, body) if what == "job" else []
        return body, pods, await _events(client, resource, body) if resource.namespaced else []

    body, pods, events = run(work, kubeconfig)
    if what == "job":
        describe.print_job(body, pods, events)
    elif what == "node":
        describe.print_node(body)
        if metadata is not None:
            described = fences.fences_of(metadata, trust, name)
            describe.print_fences(fences.rows(described, run(_labels, kubeconfig) if described else {}, time.time()))
    else:
        shows = {"dataset": describe.print_dataset, "load": describe.print_load, "runtime": describe.print_runtime}
        shows[what](body, events)


async def _labels(client: KubeClient) -> dict[str, str]:
    """Namespace and name of every Dataset by its uid."""
    metas = [body["metadata"] for body in (await client.list(DATASETS)).items]
    return {meta["uid"]: f"{meta['namespace']}/{meta['name']}" for meta in metas}


async def _events(client: KubeClient, resource: Resource, body: Body) -> list[Body]:
    """What happened to an object, oldest first."""
    meta = body["metadata"]
    selector = f"regarding.name={meta['name']},regarding.kind={resource.kind}"
    events = (await client.list(EVENTS, meta["namespace"], field_selector=selector)).items
    own = [event for event in events if event.get("regarding", {}).get("uid") == meta["uid"]]
    return sorted(own, key=lambda event: str(event.get("eventTime") or ""))


def suspend(what: What, name: Name, *, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Delete a job's pods and hold it back until it is resumed."""
    _set_suspend(what, name, True, namespace, kubeconfig)


def resume(what: What, name: Name, *, namespace: Namespace = "default", kubeconfig: Kubeconfig = None) -> None:
    """Let a suspended job go on, from its newest complete checkpoint."""
    _set_suspend(what, name, False, namespace, kubeconfig)


def delete(
    what: Annotated[str, typer.Argument(help="job, cron, dataset or load")],
    name: Name,
    *,
    namespace: Namespace = "default",
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete a job, cron, dataset or load, and what it owns."""
    listing = tables.listing(what)
    if not listing.resource.namespaced:
        raise UsageError(f"{what} cannot be deleted: the cache controller keeps them")
    run(lambda client: client.delete(listing.resource, name, namespace, propagation="Background"), kubeconfig)
    typer.echo(f"{listing.resource.kind} {name} deleted")


def _set_suspend(what: str, name: str, value: bool, namespace: str, kubeconfig: Path | None) -> None:
    _expect(what, "job")
    patch = {"spec": {"runPolicy": {"suspend": value}}}

    async def work(client: KubeClient) -> None:
        try:
            await client.patch(TRAINING_JOBS, name, patch, namespace)
        except Invalid as error:
            raise HeadraceError("; ".join(sentences(error))) from error

    run(work, kubeconfig)
    typer.echo(f"TrainingJob {name} {'suspended' if value else 'resumed'}")


def _expect(what: str, *known: str) -> None:
    if what not in known:
        raise UsageError(f"{what!r} is not possible here; write {' or '.join(known)}")
