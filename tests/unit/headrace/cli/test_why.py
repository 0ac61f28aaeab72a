"""`headrace explain` with words it does not know: said before anything is asked of a cluster."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import typer
from typer.testing import CliRunner

from headrace.cli import jobs
from headrace.errors import UsageError


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("node", "n"), "'node' is not possible here; write pod or job"),
        (("pod", "p", "-o", "toml"), "output 'toml' is not known; choose text, json or yaml"),
    ],
)
def test_words_that_are_not_known(argv: Sequence[str], said: str) -> None:
    app = typer.Typer()
    jobs.register(app)
    result = CliRunner().invoke(app, ["explain", *argv, "--kubeconfig", "/none"])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == said
