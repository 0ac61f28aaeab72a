"""The Kubernetes client against a real API server, with a proxy that can cut and stall connections."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Protocol, cast
from uuid import uuid4

import pytest

from kube.bind import BindResult, bind_pod
from kube.client import KubeClient, ListResult, PatchKind
from kube.config import ClusterConfig, load_config
from kube.errors import (
    AlreadyExists,
    Conflict,
    Invalid,
    KubeError,
    NotFound,
    Unauthorized,
    Unavailable,
)
from kube.events import EventRecorder
from kube.identity import JsonObject, ObjectRef, reference_to
from kube.lease import LeaderElector
from kube.objects import NodeCache, Pod
from kube.resources import (
    CONFIG_MAPS,
    EVENTS,
    LEASES,
    NAMESPACES,
    NODE_CACHES,
    NODES,
    POD_GROUPS,
    PODS,
    SERVICE_ACCOUNTS,
    Resource,
)
from kube.store import Store
from kube.watch import Change, list_watch

pytestmark = pytest.mark.cluster

PATIENCE_SECONDS = 30.0


class HasKubeconfig(Protocol):
    @property
    def kubeconfig(self) -> Path: ...


@pytest.fixture(scope="module")
def config(api_server: HasKubeconfig) -> ClusterConfig:
    return load_config(api_server.kubeconfig)


@asynccontextmanager
async def connect(config: ClusterConfig, **options: Any) -> AsyncIterator[KubeClient]:
    async with KubeClient(config, user_agent="headrace-tests", **options) as client:
        yield client


@pytest.fixture
async def client(config: ClusterConfig) -> AsyncIterator[KubeClient]:
    async with connect(config) as connected:
        yield connected


@pytest.fixture
async def namespace(client: KubeClient) -> str:
    name = f"kube-{uuid4().hex[:8]}"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    # Admission wants it for pods; the controller that makes it does not run here.
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default"}}, name)
    return name


async def eventually(check: Callable[[], Awaitable[bool] | bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            result = check()
            if result if isinstance(result, bool) else await result:
                return
            await asyncio.sleep(0.02)


def config_map(name: str, **data: str) -> JsonObject:
    return {"metadata": {"name": name}, "data": data}


async def create_pod(client: KubeClient, namespace: str, name: str, **spec: Any) -> JsonObject:
    container = {"name": "c", "image": "none", "resources": {"requests": {"cpu": "1"}}}
    body = {
        "metadata": {"name": name, "annotations": {"kept": "yes"}},
        "spec": {
            "containers": [container],
            "schedulerName": "nobody",
            "automountServiceAccountToken": False,
            **spec,
        },
    }
    return await client.create(PODS, body, namespace)


# ---- verbs


async def test_create_get_patch_replace_apply(client: KubeClient, namespace: str) -> None:
    created = await client.create(CONFIG_MAPS, config_map("m", a="1"), namespace)
    with pytest.raises(AlreadyExists, match='"m" already exists'):
        await client.create(CONFIG_MAPS, config_map("m"), namespace)

    await client.patch(CONFIG_MAPS, "m", {"data": {"b": "2"}}, namespace)
    operations = [{"op": "add", "path": "/data/c", "value": "3"}]
    await client.patch(CONFIG_MAPS, "m", operations, namespace, kind=PatchKind.JSON)
    await client.patch(CONFIG_MAPS, "m", {"data": {"d": "4"}}, namespace, kind=PatchKind.STRATEGIC)
    read = await client.get(CONFIG_MAPS, "m", namespace)
    assert read["data"] == {"a": "1", "b": "2", "c": "3", "d": "4"}

    with pytest.raises(Conflict, match="the object has been modified"):
        await client.replace(CONFIG_MAPS, "m", created | {"data": {}}, namespace)
    replaced = await client.replace(CONFIG_MAPS, "m", read | {"data": {"only": "this"}}, namespace)
    assert replaced["data"] == {"only": "this"}


async def test_server_side_apply_owns_its_fields(client: KubeClient, namespace: str) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", **config_map("m", a="mine")}
    mine: dict[str, Any] = {"kind": PatchKind.APPLY, "field_manager": "mine"}
    await client.patch(CONFIG_MAPS, "m", body, namespace, **mine)
    again = await client.patch(CONFIG_MAPS, "m", body, namespace, **mine)
    other: dict[str, Any] = {"kind": PatchKind.APPLY, "field_manager": "other"}
    with pytest.raises(Conflict, match="conflict with"):
        await client.patch(CONFIG_MAPS, "m", body | {"data": {"a": "theirs"}}, namespace, **other)
    forced = await client.patch(CONFIG_MAPS, "m", body | {"data": {"a": "theirs"}}, namespace, force=True, **other)
    assert forced["data"] == {"a": "theirs"}
    assert again["metadata"]["uid"] == forced["metadata"]["uid"]


async def test_delete_with_a_uid_spares_the_object_that_came_after(client: KubeClient, namespace: str) -> None:
    old = await client.create(CONFIG_MAPS, config_map("m"), namespace)
    await client.delete(CONFIG_MAPS, "m", namespace, uid=old["metadata"]["uid"])
    await client.create(CONFIG_MAPS, config_map("m"), namespace)
    with pytest.raises(Conflict, match="does not match the UID"):
        await client.delete(CONFIG_MAPS, "m", namespace, uid=old["metadata"]["uid"])
    await client.delete(CONFIG_MAPS, "m", namespace)
    with pytest.raises(NotFound, match='"m" not found'):
        await client.delete(CONFIG_MAPS, "m", namespace)


async def test_lists_are_paged_typed_and_selected(client: KubeClient, namespace: str) -> None:
    for index in range(7):
        body = {"metadata": {"name": f"m{index}", "labels": {"odd": str(index % 2)}}}
        await client.create(CONFIG_MAPS, body, namespace)
    everything = await client.list(CONFIG_MAPS, namespace, limit=3)
    assert [item["metadata"]["name"] for item in everything.items] == [f"m{index}" for index in range(7)]
    assert int(everything.resource_version) > 0
    odd = await client.list(CONFIG_MAPS, namespace, label_selector="odd=1", decode=Pod, limit=2)
    assert [item.metadata.name for item in odd.items] == ["m1", "m3", "m5"]
    assert (await client.list(CONFIG_MAPS, namespace, field_selector="metadata.name=m2")).items[0]["metadata"]["labels"]


async def test_a_wrong_object_is_invalid_and_the_message_names_the_field(client: KubeClient, namespace: str) -> None:
    with pytest.raises(Invalid, match=r"spec\.containers"):
        await client.create(PODS, {"metadata": {"name": "p"}, "spec": {}}, namespace)


async def test_our_cluster_scoped_kind_and_its_status(client: KubeClient) -> None:
    name = f"node-{uuid4().hex[:8]}"
    await client.create(NODE_CACHES, {**kind_of(NODE_CACHES), "metadata": {"name": name}})
    status = {"status": {"worker": {"endpoint": "127.0.0.1:1", "epoch": 2}}}
    await client.patch(NODE_CACHES, name, status, subresource="status")
    listed = await client.list(NODE_CACHES, decode=NodeCache)
    (cache,) = [item for item in listed.items if item.metadata.name == name]
    assert cache.status.worker is not None
    assert cache.status.worker.epoch == 2
    await client.delete(NODE_CACHES, name)


def kind_of(resource: Resource) -> JsonObject:
    return {"apiVersion": resource.api_version, "kind": resource.kind}


# ---- authentication


async def test_a_refused_token_shows_nowhere(config: ClusterConfig) -> None:
    stranger = dataclasses.replace(config, client_cert_pem=None, client_key_pem=None, token="secret-token")
    async with connect(stranger) as client:
        with pytest.raises(Unauthorized) as caught:
            await client.get(NODES, "n")
    assert "secret-token" not in f"{caught.value!r} {caught.value}"


async def test_an_unknown_authority_is_refused(config: ClusterConfig) -> None:
    async with connect(dataclasses.replace(config, ca_pem=None), timeout_seconds=2) as client:
        with pytest.raises(Unavailable, match="certificate verify failed"):
            await client.get(NODES, "n")


# ---- watching


class Proxy:
    """A TCP proxy that can cut its connections, or hold them open and silent."""

    def __init__(self, target: str) -> None:
        host, _, port = target.removeprefix("https://").rpartition(":")
        self._target = (host, int(port))
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.connections = 0
        self.refuses = False
        self.port = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["Proxy"]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self.cut()

    async def cut(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(5):
            await asyncio.sleep(0)  # the clients in this loop see their connections end

    def stall(self) -> None:
        self._flowing = asyncio.Event()

    def flow_for_new_connections(self) -> None:
        """Connections stalled before stay silent for ever, as after a lost route."""
        self._flowing = asyncio.Event()
        self._flowing.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._tasks.add(task)
        self.connections += 1
        try:
            if self.refuses:
                return
            up_reader, up_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump(reader, up_writer))
                    pumps.create_task(self._pump(up_reader, writer))
            finally:
                up_writer.transport.abort()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gate = self._flowing
        while data := await reader.read(65536):
            if gate is not self._flowing or not self._flowing.is_set():
                await gate_closed()
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError("the peer ended")


async def gate_closed() -> None:
    await asyncio.Event().wait()


class Follower:
    """Feeds a Store from list_watch in a task."""

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        *,
        silence_seconds: float = 70,
        resource: Resource = CONFIG_MAPS,
    ) -> None:
        self.store: Store[JsonObject] = Store()
        self.changes: list[Change[JsonObject]] = []
        self.lists = 0
        self._source: Any = list_watch(
            client, resource, dict, namespace=namespace, silence_seconds=silence_seconds, jitter=Random(1)
        )

    @asynccontextmanager
    async def run(self) -> AsyncIterator["Follower"]:
        task = asyncio.create_task(self._follow())
        try:
            await eventually(lambda: self.store.is_synced)
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _follow(self) -> None:
        async with aclosing(self._source) as batches:
            async for batch in batches:
                self.lists += hasattr(batch, "objects")
                self.changes += self.store.apply(batch)

    def names(self) -> set[str]:
        return {item["metadata"]["name"] for item in self.store}

    def seen(self, name: str) -> list[str]:
        return [change.kind.value for change in self.changes if change.object["metadata"]["name"] == name]


async def test_a_watch_sees_added_modified_deleted(client: KubeClient, namespace: str) -> None:
    await client.create(CONFIG_MAPS, config_map("before"), namespace)
    async with Follower(client, namespace).run() as follower:
        assert follower.names() == {"before"}
        await client.create(CONFIG_MAPS, config_map("m", a="1"), namespace)
        await client.patch(CONFIG_MAPS, "m", {"data": {"a": "2"}}, namespace)
        await client.delete(CONFIG_MAPS, "m", namespace)
        await eventually(lambda: len(follower.seen("m")) == 3)
        assert follower.seen("m") == ["ADDED", "MODIFIED", "DELETED"]
        assert follower.seen("before") == ["ADDED"]


async def test_a_cut_watch_resumes_without_a_new_list(
    config: ClusterConfig, client: KubeClient, namespace: str
) -> None:
    async with Proxy(config.server).serve() as proxy:
        through = dataclasses.replace(config, server=f"https://127.0.0.1:{proxy.port}")
        async with connect(through) as cuttable, Follower(cuttable, namespace).run() as follower:
            await client.create(CONFIG_MAPS, config_map("one"), namespace)
            await eventually(lambda: follower.names() == {"one"})
            proxy.refuses = True
            await proxy.cut()
            await client.create(CONFIG_MAPS, config_map("two"), namespace)
            await client.delete(CONFIG_MAPS, "one", namespace)
            refused_from = proxy.connections
            await eventually(lambda: proxy.connections > refused_from)
            proxy.refuses = False
            await eventually(lambda: follower.names() == {"two"})
            assert follower.seen("one") == ["ADDED", "DELETED"]
            assert follower.lists == 1


async def test_a_watch_that_falls_silent_is_opened_again(
    config: ClusterConfig, client: KubeClient, namespace: str
) -> None:
    async with Proxy(config.server).serve() as proxy:
        through = dataclasses.replace(config, server=f"https://127.0.0.1:{proxy.port}")
        async with (
            connect(through) as stallable,
            Follower(stallable, namespace, silence_seconds=0.5).run() as follower,
        ):
            await client.create(CONFIG_MAPS, config_map("one"), namespace)
            await eventually(lambda: follower.names() == {"one"})
            proxy.stall()
            await client.create(CONFIG_MAPS, config_map("two"), namespace)
            proxy.flow_for_new_connections()
            await eventually(lambda: follower.names() == {"one", "two"})
            assert follower.lists == 1


class ForgetfulClient(KubeClient):
    """Its first list claims a position from before anything the server remembers."""

    is_first = True

    async def list(self, *args: Any, **options: Any) -> ListResult[Any]:
        listed: ListResult[Any] = await super().list(*args, **options)
        if self.is_first:
            self.is_first = False
            return ListResult([], "1")
        return listed


async def test_a_position_that_is_too_old_lists_again(
    config: ClusterConfig, client: KubeClient, namespace: str
) -> None:
    # A kind whose CRD is younger than position 1: the server cannot have watched it since then.
    def group(name: str) -> JsonObject:
        return {**kind_of(POD_GROUPS), "metadata": {"name": name}, "spec": {"minMember": 1}}

    await client.create(POD_GROUPS, group("one"), namespace)
    async with (
        ForgetfulClient(config, user_agent="headrace-tests") as forgetful,
        Follower(forgetful, namespace, resource=POD_GROUPS).run() as follower,
    ):
        await eventually(lambda: follower.names() == {"one"})
        assert follower.lists == 2
        await client.create(POD_GROUPS, group("two"), namespace)
        await eventually(lambda: follower.names() == {"one", "two"})


# ---- binding


async def test_a_bind_carries_its_annotations_and_can_be_repeated(client: KubeClient, namespace: str) -> None:
    node, other = (f"{uuid4().hex[:8]}-{letter}" for letter in "ab")
    for name in (node, other):
        await client.create(NODES, {"metadata": {"name": name}})
    pod = await create_pod(client, namespace, "p")
    uid = pod["metadata"]["uid"]

    assert await bind_pod(client, namespace, "p", "another-uid", node) is BindResult.POD_GONE
    assert "nodeName" not in (await client.get(PODS, "p", namespace))["spec"]

    decision = {"scheduling.headrace.dev/decision": '{"node":"x"}'}
    assert await bind_pod(client, namespace, "p", uid, node, annotations=decision) is BindResult.BOUND
    bound = await client.get(PODS, "p", namespace)
    assert bound["spec"]["nodeName"] == node
    assert bound["metadata"]["annotations"] == {"kept": "yes", **decision}

    assert await bind_pod(client, namespace, "p", uid, node) is BindResult.BOUND
    assert await bind_pod(client, namespace, "p", uid, other) is BindResult.BOUND_ELSEWHERE
    assert await bind_pod(client, namespace, "absent", uid, node) is BindResult.POD_GONE

    gated = await create_pod(client, namespace, "gated", schedulingGates=[{"name": "example.com/wait"}])
    assert await bind_pod(client, namespace, "gated", gated["metadata"]["uid"], node) is BindResult.REFUSED
    typed = (await client.list(PODS, namespace, decode=Pod, field_selector=f"spec.nodeName={node}")).items
    assert [item.spec.containers[0].resources.requests["cpu"] for item in typed] == ["1"]


# ---- events


async def test_events_are_written_and_repeats_counted(client: KubeClient, namespace: str) -> None:
    pod = await create_pod(client, namespace, "p")
    recorder = EventRecorder(client, "headrace.dev/tests", "tests-1", sweep_seconds=0.05)
    running = asyncio.create_task(recorder.run())
    try:
        ref = reference_to(pod, kind="Pod")
        recorder.record(ref, "FailedScheduling", "n" * 3000, kind="Warning", action="Scheduling")
        assert await recorder.drain(PATIENCE_SECONDS)
        for _ in range(4):
            recorder.record(ref, "FailedScheduling", "n" * 3000, kind="Warning", action="Scheduling")
        assert await recorder.drain(PATIENCE_SECONDS)

        async def is_counted() -> bool:
            events = (await client.list(EVENTS, namespace)).items
            return [event.get("series", {}).get("count") for event in events] == [5]

        await eventually(is_counted)
        (event,) = (await client.list(EVENTS, namespace)).items
        assert event["regarding"]["uid"] == pod["metadata"]["uid"]
        assert len(event["note"].encode()) <= 1024

        node_name = f"node-{uuid4().hex[:8]}"
        recorder.record(ObjectRef(kind="Node", name=node_name), "Rebooted", "again")
        assert await recorder.drain(PATIENCE_SECONDS)
        cluster_wide = (await client.list(EVENTS, "default")).items
        assert [event for event in cluster_wide if event["regarding"]["name"] == node_name]
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


# ---- leader election


async def test_leadership_is_handed_over_on_leaving_and_taken_from_the_silent(
    config: ClusterConfig, client: KubeClient, namespace: str
) -> None:
    def elector(through: KubeClient, identity: str) -> LeaderElector:
        return LeaderElector(
            through, namespace, "lease", identity, duration_seconds=1, renew_seconds=0.7, retry_seconds=0.1
        )

    leading: list[str] = []

    async def lead(name: str) -> None:
        leading.append(name)
        try:
            await asyncio.Event().wait()
        finally:
            leading.remove(name)

    async with Proxy(config.server).serve() as proxy:
        through = dataclasses.replace(config, server=f"https://127.0.0.1:{proxy.port}")
        async with connect(through) as stallable:
            first = asyncio.create_task(elector(stallable, "first").run(lambda: lead("first")))
            await eventually(lambda: leading == ["first"])
            second = asyncio.create_task(elector(client, "second").run(lambda: lead("second")))

            proxy.stall()
            await eventually(lambda: leading == ["second"])
            result = (await asyncio.gather(first, return_exceptions=True))[0]
            assert type(result).__name__ == "LeadershipLost"

            third = asyncio.create_task(elector(client, "third").run(lambda: lead("third")))
            second.cancel()
            with suppress(asyncio.CancelledError):
                await second
            await eventually(lambda: leading == ["third"])
            lease = await client.get(LEASES, "lease", namespace)
            assert lease["spec"]["holderIdentity"] == "third"
            third.cancel()
            with suppress(asyncio.CancelledError):
                await third
            lease = await client.get(LEASES, "lease", namespace)
            assert not lease["spec"].get("holderIdentity")


async def test_the_callers_of_a_closed_client_are_told(config: ClusterConfig) -> None:
    client = KubeClient(config, user_agent="headrace-tests")
    with pytest.raises(RuntimeError, match="outside `async with`"):
        await client.get(NODES, "n")
    with suppress(KubeError):
        async with client:
            await client.get(NODES, "n")
