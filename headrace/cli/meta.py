"""`headrace meta`: backup and restore of the metadata service's database.

Owns options and output; metadata/shell/backup.py does it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from headrace.errors import HeadraceError, UsageError
from metadata.errors import MetadataError, SettingsError

if TYPE_CHECKING:
    from metadata.shell.backup import Totals

meta = typer.Typer(help="Back the metadata service's database up, and restore it.", no_args_is_help=True)
Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="HEADRACE_METADATA_STORE",
        help="sqlite:///absolute/path.db, or postgresql://USER@HOST:PORT/DATABASE?passfile=FILE",
    ),
]
EXAMPLES = (
    "Examples:  headrace meta backup --store sqlite:///var/lib/headrace/metadata.db meta.backup   |   "
    "headrace meta restore --store 'postgresql://headrace@db/headrace?passfile=/etc/pass' meta.backup"
)


class BackupFailed(HeadraceError):
    """A backup or restore did not happen; nothing was changed."""


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(meta, name="meta")


@meta.command("backup", epilog=EXAMPLES)
def backup_command(
    file: Annotated[Path, typer.Argument(help="file to write; it is replaced")], *, store: Store
) -> None:
    """Write every dataset and its files' names to FILE, as one consistent state. The service may go on serving."""
    from metadata.shell import backup

    with _Bar() as bar:
        totals = _told(lambda: backup.write(store, file, written_at_ns=time.time_ns(), progress=bar.tell), file)
    print(f"{totals.datasets} datasets, {totals.entries:,} entries, {totals.size_bytes:,} bytes in {file}")


@meta.command("restore", epilog=EXAMPLES)
def restore_command(
    file: Annotated[Path, typer.Argument(help="a file of `headrace meta backup`")], *, store: Store
) -> None:
    """Fill an empty database from FILE, of either kind, whichever kind the backup came from. Stop the service before.

    The file is checked first; a restore that fails or is interrupted leaves the database empty."""
    from metadata.shell import backup

    with _Bar() as bar:
        totals = _told(lambda: backup.restore(store, file, progress=bar.tell), file)
    print(f"{totals.datasets} datasets, {totals.entries:,} entries restored from {file}")


def _told(work: Callable[[], Totals], file: Path) -> Totals:
    try:
        return work()
    except SettingsError as error:
        raise UsageError(str(error)) from error
    except MetadataError as error:
        raise BackupFailed(error.message) from error
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}") from error


class _Bar:
    """Progress on standard error, once it takes long enough to be asked about."""

    AFTER_SECONDS = 2.0

    def __init__(self) -> None:
        from rich.console import Console

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._started = time.monotonic()
        self._step = ""
        self._task = self._progress.add_task("")
        self._is_shown = False

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_shown:
            self._progress.stop()

    def tell(self, step: str, done: int, total: int) -> None:
        """Show it; `total` 0: not known."""
        if not self._is_shown:
            if time.monotonic() - self._started < self.AFTER_SECONDS:
                return
            self._is_shown = True
            self._progress.start()
        if step != self._step:
            self._step = step
            self._progress.reset(self._task)
        self._progress.update(self._task, description=f"{step}, entries", completed=done, total=total or None)
