"""One self-contained HTML file: the question, the tables, the pictures, and how to make it again."""

from collections.abc import Sequence
from html import escape

import yaml

from simulations.report.plots import Counted, figures, silent
from simulations.report.tables import by_size, cells_of, meanings
from simulations.run import Result

STYLE = (
    "body{font:14px/1.5 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;font-size:12.5px}"
    "td,th{padding:3px 9px;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}pre{background:#f5f5f5;padding:1em;overflow:auto}"
)


def page(result: Result, command: str, counted: Counted = silent) -> str:
    """The report as HTML; `command` made it; `counted` hears of each picture."""
    names = list(result.runs)
    about = "".join(f"<li><b>{escape(name)}</b>: {escape(text)}</li>" for name, text in result.about.items())
    meant = "".join(f"<dt>{escape(title)}</dt><dd>{escape(text)}</dd>" for title, text in meanings(result))
    notes = "".join(f"<p>{escape(note)}</p>" for note in result.notes)
    faults = {name: runs[0].faults for name, runs in result.runs.items() if runs and runs[0].faults}
    pictures = "".join(
        f"<h2>{escape(title)}</h2><img alt='' src='{uri}'>" for title, uri in figures(result, counted).items()
    )
    traces = ", ".join(result.traces) or "none: synthetic, with published marginals where the scenario names a trace"
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(result.scenario.name)}</title>"
        f"<style>{STYLE}</style><h1>{escape(result.scenario.name)}</h1><p>{escape(result.scenario.question)}</p>"
        f"<p>Made by <code>{escape(command)}</code>. Traces: {escape(traces)}.</p>{notes}<ul>{about}"
        "<li><b>bound</b>: no waiting, each byte from the origin once; not a schedule, nothing can do better</li></ul>"
        f"<h2>Figures, means over seeds ± half of the 95 % interval</h2>{_table(names, cells_of(result))}"
        f"<details><summary>What they mean</summary><dl>{meant}</dl></details>"
        f"<h2>By job size</h2>{_table(names, by_size(result))}"
        f"<h2>Faults that took place (first seed)</h2><pre>{escape(yaml.safe_dump(faults) if faults else 'none')}</pre>"
        f"{pictures}<h2>Scenario</h2><pre>"
        f"{escape(yaml.safe_dump(result.scenario.model_dump(mode='json'), sort_keys=False))}</pre></html>\n"
    )


def _table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(title)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for title, cells in rows
    )
    return f"<table><tr><th>figure</th>{head}</tr>{body}</table>"
