"""Questions pip-audit asks, answered from records of the test's own."""

import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests

from tools import offline_osv


def record(name: str, events: list[dict[str, str]], versions: list[str] | None = None, **more: Any) -> dict[str, Any]:
    ranges = [{"type": "ECOSYSTEM", "events": events}]
    package = {"ecosystem": "PyPI", "name": name}
    return {"id": "PYSEC-1", "affected": [{"package": package, "ranges": ranges, "versions": versions or []}], **more}


def database(tmp_path: Path, *records: dict[str, Any]) -> offline_osv.Database:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for number, one in enumerate(records):
            archive.writestr(f"{number}.json", json.dumps(one))
    return offline_osv.Database(tmp_path / "all.zip")


@pytest.mark.parametrize(
    ("events", "inside", "outside"),
    [
        ([{"introduced": "0"}, {"fixed": "2.0"}], ["0.1", "1.9.9", "2.0rc1"], ["2.0", "10.0"]),
        ([{"introduced": "1.0"}, {"last_affected": "1.5"}], ["1.0", "1.5"], ["0.9", "1.5.1"]),
        ([{"fixed": "1.2"}, {"introduced": "1.0"}, {"introduced": "2.0"}], ["1.1", "2.0", "9"], ["0.9", "1.2", "1.9"]),
        ([{"introduced": "0"}], ["0.0.1", "99"], []),
    ],
)
def test_a_range_holds_what_is_between_its_events(
    tmp_path: Path, events: list[dict[str, str]], inside: list[str], outside: list[str]
) -> None:
    found = database(tmp_path, record("Some.Package", events))
    assert all(found.query("some-package", version) for version in inside)
    assert not any(found.query("some-package", version) for version in outside)
    assert not found.query("another", inside[0])


def test_versions_are_listed_by_name_too_and_other_ecosystems_do_not_count(tmp_path: Path) -> None:
    other = record("npm-thing", [{"introduced": "0"}])
    other["affected"][0]["package"]["ecosystem"] = "npm"
    found = database(tmp_path, record("p", [], ["1.0.post1"]), other)
    assert found.query("p", "1.0.post1") and not found.query("p", "1.0")
    assert not found.query("npm-thing", "1.0") and not found.query("p", "no version")


def test_it_answers_over_http_and_hands_the_exit_status_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = database(tmp_path, record("p", [{"introduced": "0"}, {"fixed": "2"}]))
    server = offline_osv.serve(found)
    url = f"http://127.0.0.1:{server.server_port}/v1/query"
    try:
        for version, ids in (("1.0", ["PYSEC-1"]), ("2", [])):
            asked: Any = {"package": {"name": "P", "ecosystem": "PyPI"}, "version": version}
            answer = requests.post(url, json=asked, timeout=10).json()
            assert [one["id"] for one in answer.get("vulns", [])] == ids
    finally:
        server.shutdown()
        server.server_close()
    text = "import sys; print(sys.argv[1:]); sys.exit(3)"
    assert offline_osv.main([str(tmp_path / "all.zip"), sys.executable, "-c", text]) == 3
    assert "--osv-url', 'http://127.0.0.1:" in capfd.readouterr().out


def test_an_export_that_says_nothing_is_no_clean_bill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert offline_osv.main([str(tmp_path), "true"]) == 2
    assert offline_osv.main([str(tmp_path / "absent"), "true"]) == 2
    assert offline_osv.main([]) == 2
    said = capsys.readouterr().err
    assert "holds no records" in said and "cannot be read" in said and "usage" in said
