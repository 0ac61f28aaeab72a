"""The `headrace` command: wiring only. Errors of ours end it with one sentence, not a traceback."""

from __future__ import annotations

import sys

import typer

from headrace.cli import board, cache, certs, cluster, convert, demo, jobs, meta, sim, waiting
from headrace.cli.logs import logs
from headrace.errors import HeadraceError, UsageError

app = typer.Typer(
    help="Headrace carries data to GPUs: a local cluster, training jobs near their data, and what decided it.",
    epilog="Examples:  headrace up   |   headrace submit -f job.yaml --follow   |   headrace explain pod NAME",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for group in (cluster, jobs, waiting, board, convert, demo, sim, meta, cache, certs):
    group.register(app)
app.command()(logs)


def main() -> None:
    """Entry of the `headrace` script."""
    try:
        app()
    except UsageError as error:
        sys.exit(_fail(error, 2))
    except HeadraceError as error:
        sys.exit(_fail(error, 1))


def _fail(error: HeadraceError, code: int) -> int:
    print(f"headrace: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
