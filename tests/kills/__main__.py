"""`python -m tests.kills`: ends daemons of a mount under use; its last line is `N kills, E application errors, worst
stall S s`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.kills.campaign import run


def main() -> int:
    """0 when no application saw an error, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=100, metavar="N", help="daemons to end (100)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other moments (0)")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-kills-") as directory:
        outcome = run(Path(directory), options.kills, options.seed, told=lambda text: print(text, file=sys.stderr))
    for report in outcome.reports:
        print(
            f"{report['actor']:<12} {report['calls']:>9} calls {report['errors']:>4} errors"
            f"  longest {report['worst_seconds']:.2f} s in {report['in']}"
        )
        for error in report["told"]:
            print(f"    {error}")
    for fault in outcome.faults:
        print(f"    {fault}")
    ways = ", ".join(f"{count} × {way}" for way, count in sorted(outcome.kills.items()))
    print(f"{ways}; {time.monotonic() - began:.0f} s")
    print(outcome.line())
    return 1 if outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
