"""`headrace describe node --metadata`: fences as the real metadata service has them."""

from pathlib import Path

import pytest

from api.gen import metadata_pb2 as pb
from api.gen import metadata_pb2_grpc
from benchmarks.data_plane import DataPlane
from headrace.cli.describe import print_fences
from headrace.cli.fences import FencesUnknown, fences_of, rows


@pytest.mark.parametrize("is_trusting", [False, True])
def test_fences_of_a_node_are_told_and_whose_pods_they_wait_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_trusting: bool
) -> None:
    (tmp_path / "origin").mkdir()
    with DataPlane(tmp_path / "plane", is_trusting=is_trusting) as plane:
        trust = tmp_path / "plane" / "trust" / "admin" / "bench" if is_trusting else None
        plane.sync("work", f"file://{tmp_path / 'origin'}", writable=True)
        assert fences_of(plane.metadata_address, trust, "n1") == []
        with plane.metadata_channel() as channel:
            asked = [pb.Fence(node="n1", path=path, pods=["p1", "p2"]) for path in ("run", "")]
            stub = metadata_pb2_grpc.FencesStub(channel)
            stub.Raise(pb.RaiseFencesRequest(namespace="bench", name="work", fences=asked), timeout=30)
        found = fences_of(plane.metadata_address, trust, "n1")
        assert fences_of(plane.metadata_address, trust, "n2") == []
    now = found[0].raised_at_ns / 1e9 + 125
    shown = rows(found, {"uid-bench-work": "bench/work"}, now)
    assert sorted(row[:2] for row in shown) == [("bench/work", "all of it"), ("bench/work", "run")]
    assert {row[2:] for row in shown} == {("2m5s", "p1, p2")}
    print_fences(shown)
    assert "bench/work" in (text := capsys.readouterr().out) and "p1, p2" in text
    print_fences([])
    assert "none" in capsys.readouterr().out


def test_a_service_that_does_not_answer_is_told(unused_tcp_port: int) -> None:
    with pytest.raises(FencesUnknown, match=f"127.0.0.1:{unused_tcp_port} tells of no fences"):
        fences_of(f"127.0.0.1:{unused_tcp_port}", None, "n1")
