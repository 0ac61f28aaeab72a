"""`python -m tests.kills`: ends daemons of a mount under use; its last line is `N kills, E application errors, worst
stall S s`."""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import astuple
from pathlib import Path

from tests.kills.actors import TOLD_SECONDS
from tests.kills.campaign import WAYS, WORKER, run
from tests.kills.stalls import HEAD


def main() -> int:
    """0 when no application saw an error, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="daemons to end (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other moments (0)")
    parser.add_argument("--calls", type=Path, metavar="FILE", help="write long calls and deaths here, as JSON")
    parser.add_argument("--worker", action="store_true", help="kill the worker too, once for five daemons")
    options = parser.parse_args()
    ways = {**WAYS, WORKER: 2} if options.worker else WAYS
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-kills-") as directory:
        outcome = run(
            Path(directory), options.kills, options.seed, ways=ways, told=lambda text: print(text, file=sys.stderr)
        )
    for report in outcome.reports:
        print(
            f"{report['actor']:<12} {sum(report['calls'].values()):>9} calls {report['errors']:>4} errors"
            f"  longest {report['worst_seconds']:.2f} s in {report['in']}"
        )
        for error in report["told"]:
            print(f"    {error}")
    for fault in outcome.faults:
        print(f"    {fault}")
    print(f"\nCalls of more than {TOLD_SECONDS} s, that met a daemon's death and that met none; seconds:\n{HEAD}")
    for row in outcome.rows():
        print(row.line())
    if options.calls is not None:
        long = [each for report in outcome.reports for each in report["long"]]
        deaths = [astuple(each) for each in [*outcome.deaths, *outcome.worker_deaths]]
        options.calls.write_text(json.dumps({"calls": long, "deaths": deaths}))
    if options.worker:
        print(f"Calls that met a worker's death are not in this, but here; the longest: {outcome.worker_stall():.2f} s")
        print(HEAD)
        for row in outcome.worker_rows():
            print(row.line())
    counts = ", ".join(f"{count} × {way}" for way, count in sorted(outcome.kills.items()))
    print(f"{counts}; {time.monotonic() - began:.0f} s")
    print(outcome.line())
    return 1 if outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
