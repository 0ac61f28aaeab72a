"""`headrace top` and the dashboard's page: the real API server, and a real browser."""

import asyncio
import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import typer
import yaml
from typer.testing import CliRunner

from api import names
from headrace.board.feed import Feed
from headrace.board.picture import Objects, Picture, Wanted, picture
from headrace.board.server import serving
from headrace.cli import board
from kube.client import KubeClient
from kube.config import load_config
from kube.resources import DATASETS, NAMESPACES
from tests.builders.board_objects import a_cluster, a_dataset, a_gang, a_job, a_load, a_node_cache, a_pod
from tests.builders.browser import a_page


@pytest.mark.cluster
def test_top_shows_what_the_api_server_has(api_server: Any) -> None:
    namespace = f"board-{uuid4().hex[:8]}"
    dataset = {
        "apiVersion": f"{names.DATA_GROUP}/{names.API_VERSION}",
        "kind": "Dataset",
        "metadata": {"name": "pictures"},
        "spec": {"mounts": [{"mountPoint": "file:///data", "name": "data"}]},
    }

    async def work() -> None:
        async with KubeClient(load_config(api_server.kubeconfig), user_agent="tests") as client:
            await client.create(NAMESPACES, {"metadata": {"name": namespace}})
            feed = Feed(client, namespace)
            async with feed.running():
                assert feed.missing == []
                assert feed.picture().datasets == []
                await client.create(DATASETS, dataset, namespace)
                async with asyncio.timeout(20):
                    while not feed.picture().datasets:
                        await feed.changed(5, feed.version)

    asyncio.run(work())
    app = typer.Typer()
    board.register(app)
    words = ["top", "-n", namespace, "--kubeconfig", str(api_server.kubeconfig)]
    shown = CliRunner().invoke(app, [*words, "-o", "json"])
    assert shown.exit_code == 0, shown.output
    assert [row["key"] for row in json.loads(shown.output)["datasets"]] == [f"{namespace}/pictures"]
    shown = CliRunner().invoke(app, [*words, "-o", "yaml"])
    assert [row["key"] for row in yaml.safe_load(shown.output)["datasets"]] == [f"{namespace}/pictures"]
    assert "0 of 0 caches serve" in CliRunner().invoke(app, [*words, "--once"]).output


@pytest.mark.cluster
def test_the_dashboard_is_served_until_it_is_interrupted(api_server: Any) -> None:
    words = ["dashboard", "--listen", "127.0.0.1:0", "--kubeconfig", str(api_server.kubeconfig)]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "headrace", *words], stdout=subprocess.PIPE, text=True
    ) as served:
        assert served.stdout is not None
        try:
            address = served.stdout.readline().split()[1]
            with urllib.request.urlopen(address, timeout=20) as page:
                assert b"<title>Headrace</title>" in page.read()
            with urllib.request.urlopen(f"{address}api/picture", timeout=20) as answer:
                assert json.loads(answer.read())["missing"] == []
        finally:
            served.send_signal(signal.SIGINT)
        assert served.wait(30) == 130


class Fixed:
    """The same cluster for ever."""

    missing: list[str] = []  # noqa: RUF012
    trouble = ""
    version = 0

    def __init__(self, objects: Objects | None = None) -> None:
        self.objects = objects or a_cluster()

    def picture(self, wanted: Wanted) -> Picture:
        return picture(self.objects, 1_700_010_000.0, wanted)

    async def changed(self, at_most_seconds: float, since: int) -> bool:
        await asyncio.sleep(at_most_seconds)
        return False


# Needs Debian's chromium, which make setup does not install.
@pytest.mark.nightly
@pytest.mark.parametrize("width", [1300, 390])
async def test_the_page_in_a_real_browser(tmp_path: Path, width: int) -> None:
    async with serving(Fixed(), "127.0.0.1:0") as address, a_page(tmp_path) as page:
        await page.open(address, width=width, height=900)
        await page.wait_for("document.querySelectorAll('#map td[data-at]').length === 40 * 14")
        assert await page.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert "39 of 40 caches serve" in await page.value("document.getElementById('summary').textContent")
        assert "40 Insufficient nvidia.com/gpu" in await page.value("document.getElementById('waiting').textContent")
        # By keyboard alone: into the grid, two to the right, one down.
        await page.value("document.querySelector('#map td[tabindex=\"0\"]').focus()")
        for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
            await page.press(key)
        assert await page.value("document.activeElement.dataset.at") == "2,1"
        assert " on gpu-002" in await page.value("document.getElementById('cell').textContent")
        # It stays where it is when the next picture comes.
        await asyncio.sleep(1.5)
        assert await page.value("document.activeElement.dataset.at") == "2,1"
        script = "const f = document.getElementById('dataset-filter'); f.value = 'images-03';"
        await page.value(f"{script} f.dispatchEvent(new Event('input', {{bubbles: true}}))")
        assert await page.value("document.querySelectorAll('#map tbody tr').length") == 1
        assert page.errors == []
        await page.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000


HOSTILE = '"><img src=x onerror="document.title=1"><script>document.title=2</script>' + "ж" * 200 + "\u202e"


@pytest.mark.nightly
@pytest.mark.parametrize("width", [1300, 390])
async def test_hostile_names_and_messages_are_text_and_stay_in_their_place(tmp_path: Path, width: int) -> None:
    objects = Objects(
        node_caches=[a_node_cache(HOSTILE, {HOSTILE: {"SSD": 5}})],
        datasets=[a_dataset(HOSTILE, 10, phase=HOSTILE)],
        loads=[a_load(HOSTILE, HOSTILE, 1, 2, phase=HOSTILE)],
        jobs=[a_job(HOSTILE, HOSTILE, HOSTILE * 9, [{"attempt": 1, "training": 5}])],
        pod_groups=[a_gang(HOSTILE, "Pending", HOSTILE)],
        pods=[a_pod(HOSTILE, message=HOSTILE * 9)],
    )
    source = Fixed(objects)
    source.trouble = HOSTILE
    async with serving(source, "127.0.0.1:0") as address, a_page(tmp_path) as page:
        await page.open(address, width=width, height=900)
        await page.wait_for("document.querySelectorAll('#map td[data-at]').length === 1")
        await page.wait_for("document.querySelectorAll('#waiting tbody tr').length === 2")
        assert await page.value("document.title") == "Headrace"
        assert await page.value("document.querySelectorAll('img, body script').length") == 0
        assert await page.value("document.documentElement.scrollWidth") <= width, "nothing sticks out"
        assert HOSTILE in await page.value("document.getElementById('waiting').textContent")
        why = "Math.max(...[...document.querySelectorAll('td.why')].map((cell) => cell.getBoundingClientRect().left))"
        assert await page.value(why) < width, "a long name does not push the reason out of sight"
        assert page.errors == []
        await page.screenshot(tmp_path / "hostile.png")


@pytest.mark.nightly
async def test_a_large_cluster_is_drawn_and_searched(tmp_path: Path) -> None:
    names = [f"d-{index:05}" for index in range(10_000)]
    nodes = [
        a_node_cache(f"n-{index:04}", {names[(index * 10 + step) % 10_000]: {"SSD": 5 << 30} for step in range(50)})
        for index in range(1000)
    ]
    objects = Objects(node_caches=nodes, datasets=[a_dataset(name, 10 << 30) for name in names])
    async with serving(Fixed(objects), "127.0.0.1:0") as address, a_page(tmp_path) as page:
        await page.open(address, width=1300, height=900)
        await page.wait_for("document.querySelectorAll('#map td[data-at]').length === 120 * 60")
        assert "1000 of 1000 caches serve" in await page.value("document.getElementById('summary').textContent")
        note = await page.value("document.getElementById('map-note').textContent")
        assert note == "Not shown: 880 more nodes, 9940 more datasets; name a part of them above."
        for name, text in (("dataset", "d-09999"), ("node", "n-0999")):
            script = f"const {name} = document.getElementById('{name}-filter'); {name}.value = '{text}';"
            await page.value(f"{script} {name}.dispatchEvent(new Event('input', {{bubbles: true}}))")
        await page.wait_for("document.querySelectorAll('#map td[data-at]').length === 1")
        assert "5.0 GiB SSD, 50 % of it" in await page.value("document.querySelector('#map td[data-at]').title")
        assert page.errors == []
