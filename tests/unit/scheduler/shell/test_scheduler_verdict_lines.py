"""`python -m scheduler verdicts` on lines of anybody's making: verdicts, or one sentence that names the object.

That the verdicts are kube-scheduler's: tests/integration/scheduler/test_scheduler_verdicts.py.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler.shell.verdict_lines import main


def _node(name: str, **allocatable: str) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name}, "status": {"allocatable": {"pods": "10", **allocatable}}}


def _pod(name: str, cpu: str = "1", **more: Any) -> dict[str, Any]:
    container = {"name": "main", "resources": {"requests": {"cpu": cpu}}}
    spec = {"containers": [container], **more.pop("spec", {})}
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "a", "uid": name}, "spec": spec, **more}


def _run(tmp_path: Path, *lines: bytes) -> int:
    file = tmp_path / "clusters.jsonl"
    file.write_bytes(b"\n".join(lines))
    return main([str(file)])


def _line(*objects: dict[str, Any], pods: tuple[dict[str, Any], ...] = ()) -> bytes:
    return json.dumps({"objects": objects, "pods": pods}).encode()


def test_each_line_is_a_cluster_with_a_verdict_a_pod(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pods = (_pod("small"), _pod("large", "9"), _pod("endless", "9E"))
    nodes = {"kind": "NodeList", "items": [_node("n", cpu="2"), _node("m", cpu="4Ei")]}
    assert _run(tmp_path, _line(nodes, pods=pods), b"", _line(pods=pods[:1])) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert [verdict["feasible"] for verdict in first["results"]] == [["m", "n"], ["m"], []]
    assert first["results"][1]["nodes"] == {"n": ["Insufficient cpu"], "m": []}
    assert first["results"][2]["message"] == "0/2 nodes are available: 2 Insufficient cpu."
    assert second["results"][0]["message"] == "no nodes available to schedule pods"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"x", "JSON is malformed"),
        (b'{"objects":[\xff]}', "JSON is malformed"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"objects":3}', "Expected `array`, got `int` - at `$.objects`"),
        (_line(_node("n", cpu="lots")), "Node n: 'lots' is not a quantity"),
        (
            _line(
                _pod(
                    "b",
                    spec={"nodeName": "n"},
                    status={"containerStatuses": [{"name": "main", "resources": {"requests": {"cpu": "lots"}}}]},
                )
            ),
            "Pod a/b: 'lots' is not a quantity",
        ),
        (_line({"kind": "Node", "metadata": {"name": 7}}), "Node: Expected `str`, got `int` - at `$.metadata.name`"),
    ],
)
def test_what_cannot_be_read_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes, says: str
) -> None:
    assert _run(tmp_path, b"{}", line) == 2
    told = capsys.readouterr().err
    assert told.startswith("scheduler verdicts: line 2: ")
    assert says in told
    assert told.count("\n") == 1


def test_a_file_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "absent")]) == 2
    assert capsys.readouterr().err == f"scheduler verdicts: {tmp_path / 'absent'}: No such file or directory\n"


def test_whoever_reads_only_the_beginning_ends_it_without_a_word(tmp_path: Path) -> None:
    file = tmp_path / "clusters.jsonl"
    file.write_bytes(b"\n".join([_line(_node("n", cpu="2"), pods=(_pod("small"),))] * 3000))
    command = [sys.executable, "-m", "scheduler", "verdicts", str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["results"]
        process.stdout.close()
        assert process.wait(timeout=60) == -signal.SIGPIPE
        assert process.stderr.read() == b""
