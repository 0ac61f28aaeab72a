"""The bar of what takes a while: how far it is, and how long it will still take by the pace so far.

Owns how that looks: one line on standard error when it is a terminal, nothing elsewhere, gone when the work is done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

if TYPE_CHECKING:
    # With numpy behind it; other commands are not to wait for that.
    from simulations.run import Step


class Bar:
    """Use it as a context, and `tell` it."""

    def __init__(self, console: Console | None = None) -> None:
        """`console`: where it is drawn; None: standard error."""
        self._console = console or Console(stderr=True)

    def __enter__(self) -> Bar:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._progress.start()
        self._task = self._progress.add_task("starting", total=1.0, left="")
        return self

    def tell(self, step: Step) -> None:
        """Show a step."""
        left = f"{step.seconds_left:,.0f} s left" if math.isfinite(step.seconds_left) else ""
        self._progress.update(self._task, completed=step.share, description=step.label, left=left)

    def part(self, name: str) -> Callable[[Step], None]:
        """`tell` for one of several parts of the work, each of which begins at nothing."""
        return lambda step: self.tell(replace(step, label=f"{name}: {step.label}"))

    def counted(self, total: int) -> Callable[[str], None]:
        """For work of `total` pieces of about the same size: to be called with its name before each of them."""
        from simulations.run import Step

        began, done = time.monotonic(), -1

        def next_is(label: str) -> None:
            nonlocal done
            done += 1
            share = min(1.0, done / total)
            left = (time.monotonic() - began) * (1 - share) / share if share > 0 else math.inf
            self.tell(Step(label, share, left))

        return next_is

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
