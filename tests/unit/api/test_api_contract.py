"""The contract: generated files are fresh, quantities and conditions keep Kubernetes' rules, frames are checked."""

import filecmp
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import byteplane, generate, quantities
from api.conditions import Condition, find_condition, set_condition
from api.crdgen import all_crds


def test_generated_files_are_what_the_sources_give(tmp_path: Path) -> None:
    generate.write_crds(tmp_path)
    generate.write_protobuf(tmp_path)
    for folder in ("manifests/crds", "api/gen"):
        made = sorted(path.name for path in (tmp_path / folder).iterdir())
        _, differing, missing = filecmp.cmpfiles(tmp_path / folder, generate.ROOT / folder, made, shallow=False)
        assert not differing + missing, f"run `make generate`: stale in {folder}: {differing + missing}"


def test_crds_hold_nothing_a_structural_schema_may_not() -> None:
    def visit(node: object) -> None:
        if isinstance(node, dict):
            assert not node.keys() & {"$ref", "$defs", "anyOf", "oneOf", "const", "patternProperties"}, node
            for value in node.values():
                visit(value)
        elif isinstance(node, list):
            for value in node:
                visit(value)

    for crd in all_crds():
        visit(crd["spec"]["versions"][0]["schema"])


@pytest.mark.parametrize(
    ("text", "whole", "milli"),
    [("1", 1, 1000), ("1500m", 2, 1500), ("4Gi", 4 << 30, 4000 << 30), ("1e3", 1000, 1000000), (".5", 1, 500)],
)
def test_quantities_round_up_as_kubernetes_does(text: str, whole: int, milli: int) -> None:
    assert (quantities.to_int(text), quantities.to_milli(text)) == (whole, milli)


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("2E", 2 * 10**18),
        ("2Ei", 2 << 60),
        ("1e+3", 1000),
        # Above 2^63 - 1 Kubernetes caps, and what is not nothing counts for something.
        ("8Ei", 2**63 - 1),
        ("1e30", 2**63 - 1),
        ("-1e30", 1 - 2**63),
        ("1e999999999999", 2**63 - 1),
        ("9" * 400, 2**63 - 1),
        ("1e-999999999999", 1),
        ("0e999999999999", 0),
    ],
)
def test_very_large_and_very_small_quantities_are_read(text: str, whole: int) -> None:
    assert quantities.to_int(text) == whole


@pytest.mark.parametrize("text", ["", "4 Gi", "Gi", "1.2.3", "4GB", "0x10"])
def test_what_is_no_quantity_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantities.parse(text)


def test_transition_time_changes_only_with_the_status() -> None:
    ready = Condition(type="Ready", status="False", reason="A")
    first = set_condition([], ready, 100.0)
    same = set_condition(first, ready.model_copy(update={"reason": "B"}), 200.0)
    other = set_condition(same, ready.model_copy(update={"status": "True"}), 300.0)
    times = [one.last_transition_time for found in (first, same, other) if (one := find_condition(found, "Ready"))]
    assert times == ["1970-01-01T00:01:40Z", "1970-01-01T00:01:40Z", "1970-01-01T00:05:00Z"]


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h30m", 5400), ("1m1m", 120), ("0s", 0)])
def test_durations_are_sums(text: str, seconds: int) -> None:
    assert quantities.duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "1d", "1.5h", "-1s", "1h ", "٣s"])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration; write it like 90s, 10m or 1h30m"):
        quantities.duration_seconds(text)


@given(
    request_id=st.integers(0, 2**64 - 1),
    offset=st.integers(0, 2**62),
    path=st.text(max_size=200),
    data_bytes=st.integers(0, byteplane.DATA_BYTES_MAX),
)
def test_a_frame_comes_back_as_it_was(request_id: int, offset: int, path: str, data_bytes: int) -> None:
    meta = byteplane.Read(uid="u", path=path, etag="e", size_bytes=1, offset_bytes=offset, length_bytes=3)
    raw = byteplane.encode(byteplane.Op.READ, request_id, meta, data_bytes=data_bytes)
    header = byteplane.decode_header(raw)
    assert (header.op, header.request_id, header.data_bytes) == (byteplane.Op.READ, request_id, data_bytes)
    assert byteplane.decode_meta(raw[byteplane.HEADER.size :], byteplane.Read) == meta


@given(st.binary(min_size=24, max_size=24))
def test_any_other_24_bytes_are_refused_not_misread(raw: bytes) -> None:
    try:
        header = byteplane.decode_header(raw)
    except byteplane.FrameError:
        return
    assert raw[:3] == b"HR\x01"
    assert header.meta_bytes <= byteplane.META_BYTES_MAX
    assert header.data_bytes <= byteplane.DATA_BYTES_MAX
