"""Pictures of a result: bytes by source, completion times, and nodes × datasets over time (matplotlib).

Owns colours and layout. `matplotlib` is only needed here; without it drawing raises ScenarioError naming the extra.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulations.errors import ScenarioError
from simulations.run import Result

SOURCES = (
    ("local_bytes", "on the node", "#2a9d5c"),
    ("near_peer_bytes", "peers in the rack", "#8ab17d"),
    ("far_peer_bytes", "peers across racks", "#e9c46a"),
    ("origin_bytes", "origin", "#c8553d"),
)


# Called with how many pictures there will be; what it gives is called before each, with its title.
Counted = Callable[[int], Callable[[str], None]]


def silent(_: int) -> Callable[[str], None]:
    """Nobody hears."""
    return lambda _: None


def figures(result: Result, counted: Counted = silent) -> dict[str, str]:
    """PNG pictures as data URIs, by title."""
    pyplot = _pyplot()
    return {
        title: "data:image/png;base64," + base64.b64encode(_image(pyplot, figure, "png")).decode()
        for title, _, figure in _drawn(pyplot, result, counted)
    }


def write(result: Result, folder: Path, counted: Counted = silent) -> list[Path]:
    """Every picture as PNG and as SVG in a folder, which is made; returns the files. Raises OSError."""
    pyplot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for _, name, figure in _drawn(pyplot, result, counted):
        images = {kind: _image(pyplot, figure, kind) for kind in ("png", "svg")}
        for kind, image in images.items():
            file = folder / f"{result.scenario.name}-{name}.{kind}"
            file.write_bytes(image)
            files.append(file)
    return files


def _drawn(pyplot: Any, result: Result, counted: Counted) -> Iterator[tuple[str, str, Any]]:
    """Titles, names for files, and figures."""
    with_nodes = [
        name
        for name, runs in result.runs.items()
        if runs and any(picture.shares and picture.shares[0] for picture in runs[0].pictures)
    ]
    next_is = counted(2 + len(with_nodes))
    next_is("Bytes by source")
    yield "Bytes by source", "bytes", _bytes(pyplot, result)
    next_is("Completion times")
    yield "Completion times", "completion", _completion(pyplot, result)
    for name in with_nodes:
        word, title = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-"), f"Nodes × datasets over time: {name}"
        next_is(title)
        yield title, f"nodes-{word}", _residency(pyplot, result, result.runs[name][0].pictures)


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise ScenarioError("plots need matplotlib; install headrace[demo]") from None
    matplotlib.use("Agg")
    # Without a salt two SVGs of one result differ.
    matplotlib.rcParams["svg.hashsalt"] = "headrace"
    from matplotlib import pyplot

    return pyplot


def _image(pyplot: Any, figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    # Without a date two reports of one result are equal.
    figure.savefig(buffer, format=kind, dpi=90, metadata={"Software": None} if kind == "png" else {"Date": None})
    pyplot.close(figure)
    return buffer.getvalue()


def _bytes(pyplot: Any, result: Result) -> Any:
    figure, axis = pyplot.subplots(figsize=(10, 0.45 * len(result.runs) + 1.4))
    names = list(result.runs)
    left = [0.0] * len(names)
    for key, label, colour in SOURCES:
        values = [(result.statistic(name, key) or (0.0, 0.0))[0] / 1e12 for name in names]
        axis.barh(names, values, left=left, color=colour, label=label)
        left = [start + value for start, value in zip(left, values, strict=True)]
    axis.set_xlabel("TB read")
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _completion(pyplot: Any, result: Result) -> Any:
    figure, axis = pyplot.subplots(figsize=(10, 4))
    for name, runs in result.runs.items():
        times = sorted(time for run in runs for time in run.completion_seconds)
        if times:
            axis.plot(times, [(index + 1) / len(times) for index in range(len(times))], label=name, linewidth=1.2)
    axis.set(xlabel="seconds from submission to end", ylabel="share of jobs", xscale="log")
    axis.legend(fontsize=8)
    figure.tight_layout()
    return figure


def _residency(pyplot: Any, result: Result, pictures: list[Any]) -> Any:
    figure, axes = pyplot.subplots(
        1, len(pictures), figsize=(12, 3.4), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, picture in zip(axes[0], pictures, strict=True):
        image = axis.imshow(picture.shares, aspect="auto", vmin=0, vmax=1, cmap="viridis", interpolation="nearest")
        axis.set_title(f"{picture.at / 3600:.1f} h", fontsize=8)
        axis.set_xlabel("node", fontsize=7)
        axis.tick_params(labelsize=6)
    axes[0][0].set_ylabel("dataset")
    figure.colorbar(image, ax=axes[0], label="share of the dataset on the node")
    figure.suptitle(_shown(result, pictures[0]), fontsize=8)
    return figure


def _shown(result: Result, picture: Any) -> str:
    """How much of all there is a picture shows: the first ones."""
    scenario, datasets = result.scenario, len(picture.shares)
    there = scenario.workload.jobs if scenario.workload.reads == "own" else scenario.datasets.count
    nodes = scenario.cluster.openb_nodes + sum(pool.count for pool in scenario.cluster.pools)
    return f"{datasets} of {max(datasets, there)} datasets, {len(picture.shares[0])} of {nodes} nodes"
