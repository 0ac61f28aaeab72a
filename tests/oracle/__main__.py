"""`python -m tests.oracle`: as many generated cases as wanted; ends with `N cases, D differences`."""

import argparse
import json
import sys
import time
from pathlib import Path

from headrace.cluster.binaries import ORACLE, require
from tests.oracle.cases import PODS_A_CLUSTER, differences, judged
from tests.oracle.topics import TOPICS

BATCH_CLUSTERS = 100


def main() -> int:
    """0 when nothing differs, else 1 with the first difference and the line that shows it."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, metavar="N", help="(cluster, pod) cases (20000)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="another seed, other clusters (0)")
    parser.add_argument("--topic", action="append", choices=tuple(TOPICS), help="only these topics (all)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the first difference's cluster there")
    options = parser.parse_args()
    oracle = require((ORACLE.name,))[ORACLE.name]
    clusters = -(-options.cases // PODS_A_CLUSTER)
    found, first, started = 0, None, time.monotonic()
    for begin in range(0, clusters, BATCH_CLUSTERS):
        numbers = range(begin, min(begin + BATCH_CLUSTERS, clusters))
        for cluster in judged(oracle, options.seed, numbers, options.topic or tuple(TOPICS)):
            differing = differences(cluster)
            found += len(differing)
            first = first or next(iter(differing), None)
        done = numbers.stop * PODS_A_CLUSTER
        left = (time.monotonic() - started) / numbers.stop * (clusters - numbers.stop)
        print(f"{done} cases, {found} differences, about {left:.0f} s left", file=sys.stderr, flush=True)
    if first is not None:
        print(first)
        if options.save is not None:
            options.save.write_text(json.dumps(first.cluster) + "\n", encoding="utf-8")
    print(f"{clusters * PODS_A_CLUSTER} cases, {found} differences")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
