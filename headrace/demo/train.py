"""Trains a byte-level language model on the files below a folder; what the demo's pods run.

A program of its own: needs jax and numpy, nothing of Headrace but its environment (names in `api/names.py`). Data
parallel over the processes of `jax.distributed`. Every step's batch is drawn from a generator seeded with the step,
so a run resumed from a checkpoint sees the batches it would have seen: its loss must go on where it was.

Prints one JSON object a line: {"event": "read" | "resume" | "step" | "checkpoint" | "done", ...}.
"""

import argparse
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CONTEXT_BYTES = 16
EMBED_SIZE = 32
HIDDEN_SIZE = 256
READ_THREADS = 8


def say(event: str, **fields: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)


def read_share(folder: Path, rank: int, size: int) -> bytes:
    """Read every `size`-th file below `folder`, several at a time, and tell how long the whole pass took."""
    started = time.monotonic()
    paths = sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)
    mine = paths[rank::size]
    listed = time.monotonic()
    with ThreadPoolExecutor(READ_THREADS) as pool:
        texts = list(pool.map(Path.read_bytes, mine))
    seconds = time.monotonic() - started
    total = sum(map(len, texts))
    say("read", files=len(mine), bytes=total, seconds=seconds, list_seconds=listed - started)
    return b"".join(texts)


def new_parameters(seed: int) -> dict[str, Any]:
    """Return the model's first parameters: an embedding and two layers over the last CONTEXT_BYTES bytes."""
    import numpy as np

    random = np.random.default_rng(seed)

    def layer(rows: int, columns: int) -> Any:
        return (random.standard_normal((rows, columns)) / np.sqrt(rows)).astype(np.float32)

    return {
        "embed": layer(256, EMBED_SIZE),
        "hidden": layer(CONTEXT_BYTES * EMBED_SIZE, HIDDEN_SIZE),
        "out": layer(HIDDEN_SIZE, 256),
    }


def loss_of(parameters: dict[str, Any], windows: Any) -> Any:
    """Return the mean cross entropy (nats a byte) of each window's last byte given those before it."""
    import jax
    import jax.numpy as jnp

    context, target = windows[:, :-1], windows[:, -1]
    embedded = parameters["embed"][context].reshape(context.shape[0], -1)
    logits = jnp.tanh(embedded @ parameters["hidden"]) @ parameters["out"]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1))


def make_step(learning_rate: float) -> Any:
    """Return the compiled step: (parameters, momentum, windows) → (parameters, momentum, loss)."""
    import jax

    def step(parameters: Any, momentum: Any, windows: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(parameters, windows)
        momentum = jax.tree.map(lambda m, g: 0.9 * m + g, momentum, gradients)
        parameters = jax.tree.map(lambda p, m: p - learning_rate * m, parameters, momentum)
        return parameters, momentum, loss

    return jax.jit(step)


def draw_windows(corpus: Any, step: int, rank: int, count: int) -> Any:
    """Return `count` windows of CONTEXT_BYTES + 1 bytes; the same for the same step and rank."""
    import numpy as np

    random = np.random.default_rng((step, rank))
    starts = random.integers(0, len(corpus) - CONTEXT_BYTES - 1, count)
    return corpus[starts[:, None] + np.arange(CONTEXT_BYTES + 1)].astype(np.int32)


def save_checkpoint(folder: Path, step: int, parameters: Any, momentum: Any, marker: str) -> None:
    """Write one checkpoint: the arrays under a temporary name, fsync, rename; then the marker."""
    import numpy as np

    started = time.monotonic()
    target = folder / f"step-{step:06d}"
    target.mkdir(parents=True, exist_ok=True)
    arrays = {f"p_{name}": np.asarray(value) for name, value in parameters.items()}
    arrays |= {f"m_{name}": np.asarray(value) for name, value in momentum.items()}
    temporary = target / "state.tmp"
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    size = temporary.stat().st_size
    temporary.rename(target / "state.npz")
    (target / marker).write_text(f"{step}\n")
    say("checkpoint", step=step, bytes=size, seconds=time.monotonic() - started)


def load_checkpoint(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (parameters, momentum) of one checkpoint."""
    import numpy as np

    started = time.monotonic()
    with np.load(folder / "state.npz") as arrays:
        parameters = {name[2:]: arrays[name] for name in arrays.files if name.startswith("p_")}
        momentum = {name[2:]: arrays[name] for name in arrays.files if name.startswith("m_")}
    say("resume", path=str(folder), seconds=time.monotonic() - started)
    return parameters, momentum


def place() -> tuple[int, int]:
    """Return (rank, number of processes) as JAX_* tells; alone when it is silent."""
    return int(os.environ.get("JAX_PROCESS_ID", "0")), int(os.environ.get("JAX_NUM_PROCESSES", "1"))


def connect(rank: int, size: int) -> None:
    """Join the other processes at the coordinator."""
    import jax

    if size > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(os.environ["JAX_COORDINATOR_ADDRESS"], size, rank, initialization_timeout=60)


def train(options: argparse.Namespace, corpus_bytes: bytes, rank: int, size: int) -> None:
    """Run the steps that are left, with a checkpoint every `checkpoint_every` of them."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    corpus = np.frombuffer(corpus_bytes, dtype=np.uint8)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    by_row, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    folder = Path(options.checkpoints) if options.checkpoints else None
    first_step, resume_from = 0, os.environ.get("HEADRACE_RESUME_FROM")
    if resume_from:
        parameters, momentum = load_checkpoint(Path(resume_from))
        first_step = int(os.environ["HEADRACE_RESUME_STEP"])
    else:
        parameters = new_parameters(seed=0)
        momentum = {name: np.zeros_like(value) for name, value in parameters.items()}
    parameters = jax.tree.map(lambda value: jax.device_put(value, everywhere), parameters)
    momentum = jax.tree.map(lambda value: jax.device_put(value, everywhere), momentum)
    step_once = make_step(options.learning_rate)
    for step in range(first_step + 1, options.steps + 1):
        started = time.monotonic()
        local = draw_windows(corpus, step, rank, options.batch // size)
        windows = jax.make_array_from_process_local_data(by_row, local)
        parameters, momentum, loss = step_once(parameters, momentum, windows)
        say("step", step=step, loss=float(loss), seconds=time.monotonic() - started)
        if folder and rank == 0 and step % options.checkpoint_every == 0:
            save_checkpoint(folder, step, parameters, momentum, options.marker)
        if options.pause_seconds:
            time.sleep(options.pause_seconds)
    say("done", step=options.steps)


def main() -> None:
    """Entry of `python train.py`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder to train on")
    parser.add_argument("--checkpoints", default=os.environ.get("HEADRACE_CHECKPOINT_DIR"), help="folder to save in")
    parser.add_argument("--marker", default="COMPLETE", help="file that completes a checkpoint")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--checkpoint-every", type=int, default=10)
    parser.add_argument("--batch", type=int, default=2048, help="windows a step, over all processes")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--pause-seconds", type=float, default=0.0, help="pause after each step, to be watched")
    options = parser.parse_args()
    rank, size = place()
    corpus = read_share(Path(options.data), rank, size)
    connect(rank, size)
    train(options, corpus, rank, size)


if __name__ == "__main__":
    main()
