"""The scheduler extender, as kube-scheduler asks it: an answer, and how long it holds the loop that binds.

- ask-FORM: one filter and one prioritize call of a pod whose dataset is required, the median of all, by names
  (nodeCacheCapable) and by whole nodes of 16 KiB. The client is another process and keeps its connection.
- hold-FORM: the longest time in which the server's event loop did nothing else.
- crowd: the median of calls by names while eight clients ask at once.
"""

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from api import names
from benchmarks import frame
from benchmarks.frame import Case
from benchmarks.scheduler_core import data_events, engine_with_nodes
from headrace.cluster import ports
from scheduler.core.extender import DataExtender
from scheduler.plugins.stage_in import StageIn
from scheduler.shell.extender import serve_extender

CROWD: Final = 8
FILLER: Final = {f"label.example.com/{number}": "x" * 60 for number in range(180)}
TICK_SECONDS: Final = 0.001
PATIENCE_SECONDS: Final = 300.0


def main(arguments: list[str]) -> int:
    """Measure and report."""
    options = frame.parser("extender", __doc__ or "").parse_args(arguments)
    cases = asyncio.run(_cases(500 if options.quick else 5000, options.runs))
    frame.report("extender", cases, options.json, options.plot)
    return 0


async def _cases(nodes: int, runs: int) -> list[Case]:
    engine = engine_with_nodes(nodes)
    engine.handle(data_events(nodes), 0.0)
    extender = DataExtender(engine.state, StageIn(1.0))
    address = f"127.0.0.1:{ports.pick_free(())}"
    cases: list[Case] = []
    with TemporaryDirectory(prefix="headrace-bench-extender-") as folder:
        files = {form: Path(folder) / f"{form}.json" for form in ("names", "whole")}
        for form, file in files.items():
            file.write_bytes(_body(nodes, is_whole=form == "whole"))
        async with serve_extender(address, extender, lambda: True, None, None):
            for form, calls in (("names", 100), ("whole", 4)):
                frame.progress(f"{nodes} nodes, {form}")
                found = [await _ask(1, address, files[form], calls) for _ in range(runs)]
                note = f"a body of {files[form].stat().st_size / 1e6:.2f} MB"
                asked = [(seconds * 1000,) for seconds, _ in found]
                held = [(seconds * 1000,) for _, seconds in found]
                cases += [
                    Case(f"ask-{form}-{nodes}", "ms", asked, higher_is_better=False, note=note),
                    Case(f"hold-{form}-{nodes}", "ms", held, higher_is_better=False, note="the longest"),
                ]
            frame.progress(f"{nodes} nodes, {CROWD} clients at once")
            crowd = [((await _ask(CROWD, address, files["names"], 50))[0] * 1000,) for _ in range(runs)]
            cases.append(Case(f"crowd-{nodes}", "ms", crowd, higher_is_better=False, note=f"{CROWD} clients at once"))
    return cases


def _body(nodes: int, *, is_whole: bool) -> bytes:
    wanted = json.dumps([{"name": "data-0", "required": True}])
    pod = {"metadata": {"name": "p", "namespace": "default", "annotations": {names.DATASETS_ANNOTATION: wanted}}}
    every = [f"node-{index}" for index in range(nodes)]
    asked: dict[str, Any] = {"NodeNames": every}
    if is_whole:
        asked = {"Nodes": {"items": [{"metadata": {"name": name, "labels": FILLER}} for name in every]}}
    return json.dumps({"Pod": pod, **asked}).encode()


async def _ask(count: int, address: str, body: Path, calls: int) -> tuple[float, float]:
    """The median of the seconds of all calls, and the longest time the loop here did nothing else."""
    argv = [sys.executable, "-m", "benchmarks.extender_client", address, str(body), str(calls)]
    clients = [await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE) for _ in range(count)]
    asking = asyncio.gather(*(client.communicate() for client in clients))
    held = 0.0
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not asking.done():
            started = time.perf_counter()
            await asyncio.sleep(TICK_SECONDS)
            held = max(held, time.perf_counter() - started - TICK_SECONDS)
    if any(client.returncode for client in clients):
        raise RuntimeError("a client of the extender failed; it said why above")
    took = [seconds for answer, _ in await asking for seconds in json.loads(answer)]
    return statistics.median(took), held
