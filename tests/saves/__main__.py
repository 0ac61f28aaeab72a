"""`python -m tests.saves`: kills training programs while they save; its last line is `N kills (…), L finished saves
lost, E errors`."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.saves.campaign import run
from tests.saves.protocols import SAVES


def main() -> int:
    """0 when every successor resumed from a whole checkpoint no older than the last finished one, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.saves", description=__doc__)
    parser.add_argument("--kills", type=int, default=1000, metavar="N", help="programs to kill (1000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other moments (0)")
    parser.add_argument("--protocol", action="append", choices=SAVES, help="only this way of saving; may be repeated")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-saves-") as directory:
        outcome = run(
            Path(directory),
            options.kills,
            options.seed,
            protocols=options.protocol,
            told=lambda text: print(text, file=sys.stderr, flush=True),
        )
    for error in outcome.errors:
        print(f"    {error}")
    ways = ", ".join(f"{count} × {way}" for way, count in sorted(outcome.damaged.items()))
    print(f"damage: {ways or 'none'}; {time.monotonic() - began:.0f} s")
    print(outcome.line())
    return 1 if outcome.errors else 0


if __name__ == "__main__":
    sys.exit(main())
