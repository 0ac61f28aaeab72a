"""Flags of the node agent: a wrong one is named with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.node.errors import SettingsError
from headrace.node.settings import parse_arguments

GOOD = ["--name", "n-1", "--dir", "/d", "--mount", "/m"]


def test_flags_and_defaults() -> None:
    settings = parse_arguments([*GOOD, "--gpus", "2", "--labels", "zone=a,disk=fast"])
    assert (settings.gpus, settings.labels) == (2, {"zone": "a", "disk": "fast"})
    assert settings.lease_duration_seconds == 40
    assert settings.mount == Path("/m")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "Big_Name"], "--name: 'Big_Name' is not a node name"),
        (["--cpu", "many"], "--cpu: 'many' is not a quantity"),
        (["--memory", "0"], "--memory: '0' must be more than 0"),
        (["--labels", "novalue"], "--labels: 'novalue' must look like key=value"),
        (["--network-index", "240"], "--network-index: Input should be less than or equal to 239"),
        (["--tls-cert", "/x"], "flags: --tls-cert, --tls-key and --client-ca belong together"),
    ],
)
def test_a_wrong_flag_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_arguments([*GOOD, *arguments])
