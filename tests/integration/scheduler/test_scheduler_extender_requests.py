"""The extender over a socket, asked what no kube-scheduler would ask: always an answer that says what is wrong."""

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from headrace.cluster import ports
from scheduler.core.extender import DataExtender
from scheduler.plugins.stage_in import StageIn
from scheduler.shell.extender import serve_extender
from tests.builders.scheduler_objects import MIB, World, a_cache, a_dataset, a_node

READS = {"data.headrace.dev/datasets": '[{"name":"d","required":true}]'}


@pytest.fixture
async def url() -> AsyncIterator[str]:
    world = World()
    world.nodes(a_node("cold"), a_node("warm.with.dots"))
    world.datasets(a_dataset("d", 1000 * MIB))
    world.caches(a_cache("warm.with.dots", ssd={"d": 1000 * MIB}))
    address = f"127.0.0.1:{ports.pick_free(())}"
    async with serve_extender(address, DataExtender(world.engine.state, StageIn(1.0)), lambda: True, None, None):
        yield f"http://{address}"


async def _ask(url: str, body: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
        is_json = answer.content_type == "application/json"
        return answer.status, await answer.json() if is_json else await answer.text()


def _pod(**annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": "default", "annotations": annotations}}


def _whole(*names: str) -> dict[str, Any]:
    return {"items": [{"metadata": {"name": name}, "spec": {"podCIDR": name}} for name in names]}


async def test_names_and_whole_nodes_get_the_same_answer(url: str) -> None:
    names = ["cold", "warm.with.dots", "unseen"]
    by_name = {"Pod": _pod(**READS), "NodeNames": names}
    whole = {"Pod": _pod(**READS), "Nodes": _whole(*names)}
    _, kept = await _ask(f"{url}/filter", by_name)
    _, kept_whole = await _ask(f"{url}/filter", whole)
    assert kept["NodeNames"] == ["warm.with.dots"]
    assert kept_whole["Nodes"]["items"] == _whole("warm.with.dots")["items"]
    assert set(kept["FailedNodes"]) == set(kept_whole["FailedNodes"]) == {"cold", "unseen"}
    _, scores = await _ask(f"{url}/prioritize", by_name)
    # `cold` reads from `warm`, which is nearly as good; of a node nobody knows nothing is expected.
    assert scores == [{"Host": name, "Score": score} for name, score in zip(names, (10, 10, 0), strict=True)]
    assert await _ask(f"{url}/prioritize", whole) == (200, scores)
    two = {"Pod": _pod(**READS), "NodeNames": names[:2]}
    assert await _ask(f"{url}/prioritize", two) == (
        200,
        [{"Host": "cold", "Score": 0}, {"Host": names[1], "Score": 10}],
    )


@pytest.mark.parametrize("verb", ["filter", "prioritize"])
@pytest.mark.parametrize(
    "body",
    [
        {"Pod": {}, "Nodes": {"items": [3]}},
        {"Pod": {}, "Nodes": {"items": [{}]}},
        {"Pod": {}, "Nodes": {"items": "x"}},
        {"Pod": {}, "NodeNames": [3]},
        {"Pod": {"metadata": []}},
        [],
    ],
)
async def test_arguments_of_another_form_are_refused(url: str, verb: str, body: Any) -> None:
    status, text = await _ask(f"{url}/{verb}", body)
    assert status == 400
    assert text.startswith("not the arguments of a scheduler extender (v1): ")


async def test_arguments_nested_too_deeply_are_refused_like_others(url: str) -> None:
    body = b'{"Pod": {}, "Nodes": {"items": ' + b"[" * 100_000
    async with aiohttp.ClientSession() as session, session.post(f"{url}/filter", data=body) as answer:
        assert (answer.status, await answer.text()) == (
            400,
            "not the arguments of a scheduler extender (v1): nested too deeply\n",
        )


@pytest.mark.parametrize("body", [{"Pod": {}}, {"Pod": {}, "Nodes": {"items": None}}, {"Pod": {}, "NodeNames": []}])
async def test_no_nodes_are_no_nodes(url: str, body: Any) -> None:
    assert await _ask(f"{url}/prioritize", body) == (200, [])
    assert (await _ask(f"{url}/filter", body))[0] == 200


@pytest.mark.parametrize(
    "text",
    ["{", "[" * 50_000, f'[{{"name":"d","maxWaitSeconds":{"9" * 400}}}]', '[{"name":"\\ud800","required":true}]'],
)
async def test_an_annotation_that_cannot_be_read_reaches_the_pod(url: str, text: str) -> None:
    body = {"Pod": _pod(**{"data.headrace.dev/datasets": text}), "NodeNames": ["cold"]}
    status, found = await _ask(f"{url}/filter", body)
    assert status == 200
    assert "annotation data.headrace.dev/datasets" in found.get("Error", "") or set(found["FailedNodes"]) == {"cold"}
    assert await _ask(f"{url}/prioritize", body) == (200, [{"Host": "cold", "Score": 0}])
