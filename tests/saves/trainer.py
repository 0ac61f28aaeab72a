"""A training program: goes on from the checkpoint it is given, and saves step after step until it is killed.

`python -m tests.saves.trainer PROTOCOL SHARD_BYTES SEED`, with the variables the job controller sets. Prints a line of
JSON for what it resumed from, and at the begin and the end of each save. Ends with 3 when the checkpoint is not whole.
"""

import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from tests.saves.protocols import RANKS, SAVES, Operation, is_whole, shard_files

NOT_WHOLE = 3


def perform(top: Path, operation: Operation, opened: dict[str, int]) -> None:
    """Carry out one operation below `top`."""
    path = top / operation.path
    match operation.verb:
        case "open":
            path.parent.mkdir(parents=True, exist_ok=True)
            opened[operation.path] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        case "write":
            left = operation.data
            while left:
                left = left[os.write(opened[operation.path], left) :]
        case "close":
            os.close(opened.pop(operation.path))
        case "mkdir":
            path.mkdir(parents=True, exist_ok=True)
        case "rename":
            target = top / operation.target
            if target.is_dir():
                # A program that goes back behind a step it has saved removes it before it saves it anew.
                shutil.rmtree(target)
            path.rename(target)


def problem_of(protocol: str, place: Path, step: int) -> str | None:
    """Read a whole checkpoint; what is wrong with it."""
    names = shard_files(protocol, step)
    for rank in range(RANKS):
        try:
            data = (place / names[rank]).read_bytes()
        except FileNotFoundError:
            return f"{names[rank]} is missing"
        if not is_whole(data, step, rank):
            return f"{names[rank]} is not that of step {step}"
    return None


def say(**words: object) -> None:
    """One line for who watches."""
    print(json.dumps(words), flush=True)


def main() -> int:
    """Train until killed."""
    protocol, shard_bytes, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    top, step, problem = Path(os.environ["HEADRACE_CHECKPOINT_DIR"]), 0, None
    if "HEADRACE_RESUME_FROM" in os.environ:
        step = int(os.environ["HEADRACE_RESUME_STEP"])
        problem = problem_of(protocol, Path(os.environ["HEADRACE_RESUME_FROM"]), step)
    say(resumed=step, problem=problem)
    if problem is not None:
        return NOT_WHOLE
    chance, opened = random.Random(seed), dict[str, int]()
    while True:
        step += 1
        operations = list(SAVES[protocol](step, shard_bytes, chance))
        say(saving=step)
        began = time.monotonic()
        for operation in operations:
            perform(top, operation, opened)
        say(saved=step, seconds=time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(main())
