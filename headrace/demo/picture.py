"""The demo as a picture: both jobs over the nodes, the loss, the bytes by source."""

from __future__ import annotations

from pathlib import Path

from headrace.demo.record import JobRecord, Story

COLOURS = ("#2a6f97", "#e07a1f", "#7a5195")
SOURCE_COLOURS = {"local": "#2a9d5c", "peer": "#e9c46a", "origin": "#c8553d"}


def draw(story: Story, file: Path) -> None:
    """Write the PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, figsize=(11, 10), height_ratios=[1.1, 1.2, 0.9])
    start = min(span.began for job in story.jobs for span in job.spans.values())
    _timeline(axes[0], story.jobs, start)
    _loss(axes[1], story.jobs[0])
    _sources(axes[2], story.jobs)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _timeline(axes: object, jobs: list[JobRecord], start: float) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    nodes = sorted({span.node for job in jobs for span in job.spans.values()})
    for colour, job in zip(COLOURS, jobs, strict=False):
        for span in job.spans.values():
            width = max(span.ended - span.began, 0.3)
            axes.barh(nodes.index(span.node), width, left=span.began - start, height=0.6, color=colour, alpha=0.85)
            label = f"{job.name} a{span.attempt}"
            axes.text(span.began - start + 0.2, nodes.index(span.node), label, va="center", fontsize=8, color="white")
        if job.killed_at is not None:
            axes.axvline(job.killed_at - start, color="crimson", linestyle="--")
            axes.text(job.killed_at - start, len(nodes) - 0.45, " SIGKILL", color="crimson", fontsize=8)
    axes.set_yticks(range(len(nodes)), nodes)
    axes.set_ylim(-0.6, len(nodes) - 0.2)
    axes.set_xlabel("seconds")
    axes.set_title("Jobs over the nodes (aN = attempt)")


def _loss(axes: object, job: JobRecord) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    attempts = sorted({span.attempt for span in job.spans.values()})
    for attempt, marker in zip(attempts, "ox+v", strict=False):
        losses = job.losses(attempt)
        if losses:
            label = f"attempt {attempt}: steps {min(losses)} to {max(losses)}"
            axes.plot(list(losses), list(losses.values()), marker=marker, markersize=4, label=label)
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a byte")
    axes.set_title(f"Loss of {job.name}: it goes on where the checkpoint was")
    axes.legend()


def _sources(axes: object, jobs: list[JobRecord]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    left = [0.0] * len(jobs)
    for source, colour in SOURCE_COLOURS.items():
        values = [job.bytes_by_source.get(source, 0) / 1e6 for job in jobs]
        axes.barh([job.name for job in jobs], values, left=left, color=colour, label=source)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("MB the workers had to supply (the kernel's page cache spares them the rest)")
    axes.set_title("Bytes by source")
    axes.legend()
