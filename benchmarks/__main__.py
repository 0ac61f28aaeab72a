"""`python -m benchmarks list`, or `python -m benchmarks NAME …`: finds the benchmark and hands it the rest."""

import importlib
import signal
import sys

from benchmarks.frame import Benchmark
from benchmarks.registry import BENCHMARKS


def main(arguments: list[str] | None = None) -> int:
    """Return 0 when the benchmark ran, whatever the figures; 2 for an unknown name."""
    words = sys.argv[1:] if arguments is None else arguments
    name, rest = (words[0], words[1:]) if words else ("list", [])
    if name in {"list", "-h", "--help"}:
        print("python -m benchmarks NAME [--quick] [--runs N] [--json FILE] [--plot FILE.png] [--yardstick NAME=…]")
        for each, (_, about) in BENCHMARKS.items():
            print(f"  {each:18} {about}")
        return 0
    if name not in BENCHMARKS:
        print(f"no benchmark {name!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    # As Ctrl-C: what was started is stopped, and its folder removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    module: Benchmark = importlib.import_module(BENCHMARKS[name][0])
    return module.main(rest)


if __name__ == "__main__":
    sys.exit(main())
