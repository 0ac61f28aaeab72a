"""The worker's command line: what it takes, and what it says to a wrong one."""

import pytest

from cacheruntime.worker.settings import parse

GOOD = [
    *("--node", "n1", "--metadata", "127.0.0.1:7100", "--listen", "127.0.0.1:0", "--socket", "/run/w.sock"),
    *("--tier", "SSD:/ssd:10Gi", "--tier", "MEM:/dev/shm/x:64Mi", "--credentials-dir", "/run/credentials"),
]


def test_tiers_are_sorted_fastest_first() -> None:
    settings = parse(GOOD)
    assert [(tier.medium, tier.quota_bytes) for tier in settings.tiers] == [("MEM", 64 << 20), ("SSD", 10 << 30)]
    assert (settings.control.host, settings.control.port) == ("127.0.0.1", 0)


def test_watermarks_and_several_paths_of_a_level() -> None:
    settings = parse([*GOOD, "--tier", "SSD:/ssd2:20Gi,high=0.8,low=0.5", "--tier", "SSD:/ssd3:1Gi,high=0.5"])
    ssd = [(str(tier.directory), tier.high, tier.low) for tier in settings.tiers if tier.medium == "SSD"]
    assert ssd == [("/ssd", 0.95, 0.85), ("/ssd2", 0.8, 0.5), ("/ssd3", 0.5, 0.5)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--tier", "RAM:/x:1Gi"], "'RAM:/x:1Gi' is no tier; write it like SSD:/var/cache/headrace:200Gi"),
        (["--tier", "SSD:/y:much"], "quota of tier 'SSD:/y:much': 'much' is not a quantity"),
        (["--tier", "SSD:/y:0"], "it must be above 0"),
        (["--tier", "HDD:/ssd:1Gi"], "two --tier options name the same directory"),
        (["--tier", "SSD:/y:1Gi,height=0.9"], "'height=0.9' of tier 'SSD:/y:1Gi,height=0.9' is no watermark"),
        (["--tier", "SSD:/y:1Gi,high=95%"], "is '95%'; it must be a part of the quota like 0.95"),
        (["--tier", "SSD:/y:1Gi,high=0.5,low=0.6"], "they must be 0 < low <= high <= 1"),
        (["--metadata", "localhost"], "'localhost' is no address; write it like 127.0.0.1:7070"),
    ],
)
def test_a_wrong_option_is_named(extra: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([*GOOD, *extra])
    assert message in capsys.readouterr().err


def test_a_wrong_tunable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HEADRACE_WORKER_ORIGIN_STREAMS", "0")
    with pytest.raises(SystemExit):
        parse(GOOD)
    assert "HEADRACE_WORKER_ORIGIN_STREAMS=0" in capsys.readouterr().err
