"""`headrace convert`: YAML of KubeDL, Kubeflow and Fluid as ours.

Owns the command line; the mapping is headrace/convert/."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
import yaml

from headrace.convert.objects import convert
from headrace.errors import UsageError

EPILOG = (
    "Examples:  headrace convert -f pytorchjob.yaml > job.yaml   |   "
    "kubectl get datasets.data.fluid.io,jindoruntimes -o yaml | headrace convert -f -"
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(name="convert", epilog=EPILOG)(convert_command)


def convert_command(
    file: Annotated[Path, typer.Option("--file", "-f", help="YAML with one or more objects; - = standard input")],
) -> None:
    """Turn KubeDL's and Kubeflow's jobs, and Fluid's Datasets, DataLoads and runtimes, into Headrace's objects.

    YAML goes to standard output; what has no counterpart is listed on standard error. Exit code 1 when nothing could
    be converted."""
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = [one for document in yaml.safe_load_all(text) for one in _flat(document)]
    except OSError as error:
        raise UsageError(f"--file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--file {file} is not UTF-8 text") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A date that is none is a ValueError to the YAML reader.
        raise UsageError(f"--file {file} is not valid YAML: {error}") from error
    found = convert(documents)
    for note in found.notes:
        typer.echo(f"# {note}", err=True)
    if not found.bodies:
        raise typer.Exit(1)
    typer.echo(yaml.safe_dump_all(found.bodies, sort_keys=False), nl=False)


def _flat(document: object) -> list[object]:
    """A List's items, as `kubectl get -o yaml` writes them."""
    if isinstance(document, dict) and document.get("kind") == "List":
        items = document.get("items") or []
        return list(items) if isinstance(items, list) else [items]
    return [document]
