"""How each framework saves a checkpoint, as a list of file operations; and whether a directory holds all of one.

Owns the order of operations, names and sizes of torch's DCP, Megatron-LM, DeepSpeed, Orbax and a plain marker. The same
lists are carried out on a real mount (trainer.py) and on a model of the namespace (tests/property/metadata). Contents
are a function of step and rank, so that whoever reads a checkpoint knows whether it is whole and of one step.
"""

from __future__ import annotations

import hashlib
import pickle
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

RANKS: Final = 3
MARKER: Final = "COMPLETE"
Verb = Literal["open", "write", "close", "rename", "mkdir"]


@dataclass(frozen=True)
class Operation:
    """One call: `path` relative to the checkpoint directory; `data` of a write, `target` of a rename."""

    verb: Verb
    path: str
    data: bytes = b""
    target: str = ""


def shard(step: int, rank: int, size_bytes: int) -> bytes:
    """What rank `rank` saves at `step`: a digest, then bytes that belong to it."""
    body = random.Random(f"{step}/{rank}").randbytes(size_bytes - 40)
    head = step.to_bytes(4, "big") + rank.to_bytes(4, "big")
    return hashlib.sha256(head + body).digest() + head + body


def is_whole(data: bytes, step: int, rank: int) -> bool:
    """Whether these are all bytes of that shard."""
    head = step.to_bytes(4, "big") + rank.to_bytes(4, "big")
    return len(data) > 40 and data[32:40] == head and hashlib.sha256(data[32:]).digest() == data[:32]


class _Record:
    """Stands for classes of torch: pickled as they are, by module and name with a dict of fields."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


_FILESYSTEM: Final = "torch.distributed.checkpoint.filesystem"
_METADATA: Final = "torch.distributed.checkpoint.metadata"
_INFO = type("_StorageInfo", (_Record,), {"__module__": _FILESYSTEM})
_INDEX = type("MetadataIndex", (_Record,), {"__module__": _METADATA})
_WHOLE = type("Metadata", (_Record,), {"__module__": _METADATA})


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Let pickle find those classes under torch's names."""
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torch"}
    for module in (_FILESYSTEM, _METADATA):
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules[".".join(parts[:end])] = types.ModuleType(".".join(parts[:end]))
    for one in (_INFO, _INDEX, _WHOLE):
        setattr(sys.modules[one.__module__], one.__name__, one)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
            del sys.modules[name]
        sys.modules.update(before)


def dcp_metadata(sizes: Mapping[str, int], protocol: int = 4) -> bytes:
    """Return a `.metadata` as torch's FileSystemWriter pickles it: two tensors a file, one behind the other."""
    storage = {}
    for name, size in sizes.items():
        for part, (offset, length) in enumerate(((0, size // 2), (size // 2, size - size // 2))):
            key = _INDEX(fqn=f"{name}.{part}", offset=None, index=None)
            storage[key] = _INFO(relative_path=name, offset=offset, length=length)
    with _stand_ins():
        return pickle.dumps(_WHOLE(state_dict_metadata={}, planner_data=None, storage_data=storage), protocol)


def _written(path: str, data: bytes, pieces: int = 1) -> Iterator[Operation]:
    yield Operation("open", path)
    size = -(-len(data) // pieces) or 1
    for at in range(0, len(data), size):
        yield Operation("write", path, data[at : at + size])
    yield Operation("close", path)


def _shards(step: int, names: list[str], size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    """All ranks at once: their operations in some order, each rank's own kept."""
    running = [_written(name, shard(step, rank, size_bytes), 3) for rank, name in enumerate(names)]
    while running:
        one = chance.choice(running)
        operation = next(one, None)
        if operation is None:
            running.remove(one)
        else:
            yield operation


def _marker(step: int, size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    yield Operation("mkdir", f"{step}")
    yield from _shards(step, [f"{step}/rank-{rank}.bin" for rank in range(RANKS)], size_bytes, chance)
    yield from _written(f"{step}/{MARKER}", b"")


def _torch(step: int, size_bytes: int, chance: random.Random, *, is_old: bool = False) -> Iterator[Operation]:
    yield Operation("mkdir", f"step-{step}")
    names = [f"__{rank}_0.distcp" for rank in range(RANKS)]
    yield from _shards(step, [f"step-{step}/{name}" for name in names], size_bytes, chance)
    content = dcp_metadata(dict.fromkeys(names, size_bytes), protocol=2 if is_old else 4)
    if is_old:
        yield from _written(f"step-{step}/.metadata", content, 4)
        return
    yield from _written(f"step-{step}/.metadata.tmp", content, 4)
    yield Operation("rename", f"step-{step}/.metadata.tmp", target=f"step-{step}/.metadata")


def _old_torch(step: int, size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    return _torch(step, size_bytes, chance, is_old=True)


def _megatron(step: int, size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    folders = [f"iter_{step:07d}/mp_rank_{rank:02d}" for rank in range(RANKS)]
    for folder in folders:
        yield Operation("mkdir", folder)
    yield from _shards(step, [f"{folder}/model_optim_rng.pt" for folder in folders], size_bytes, chance)
    yield from _written("latest_checkpointed_iteration.txt", str(step).encode())


def _deepspeed(step: int, size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    yield Operation("mkdir", f"global_step{step}")
    names = [f"global_step{step}/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(RANKS)]
    yield from _shards(step, names, size_bytes, chance)
    yield from _written("latest", f"global_step{step}".encode())


def _orbax(step: int, size_bytes: int, chance: random.Random) -> Iterator[Operation]:
    temporary = f"{step}.orbax-checkpoint-tmp-{chance.randrange(10**12, 10**13)}"
    folders = [f"{temporary}/default/ocdbt.process_{rank}/d" for rank in range(RANKS)]
    for folder in folders:
        yield Operation("mkdir", folder)
    yield from _written(f"{temporary}/_CHECKPOINT_METADATA", b'{"init_timestamp_nsecs": 1}')
    yield from _shards(step, [f"{folder}/data" for folder in folders], size_bytes, chance)
    yield Operation("rename", temporary, target=f"{step}")


Save = Callable[[int, int, random.Random], Iterator[Operation]]
SAVES: Final[dict[str, Save]] = {
    "Marker": _marker,
    "TorchDCP": _torch,
    "TorchDCP-in-place": _old_torch,
    "Megatron": _megatron,
    "DeepSpeed": _deepspeed,
    "Orbax": _orbax,
}


def format_of(protocol: str) -> str:
    """The name in `checkpoint.format`."""
    return protocol.removesuffix("-in-place")


def shard_files(protocol: str, step: int) -> list[str]:
    """Paths of a finished checkpoint's shards below its own directory, by rank."""
    match format_of(protocol):
        case "Marker":
            return [f"rank-{rank}.bin" for rank in range(RANKS)]
        case "TorchDCP":
            return [f"__{rank}_0.distcp" for rank in range(RANKS)]
        case "Megatron":
            return [f"mp_rank_{rank:02d}/model_optim_rng.pt" for rank in range(RANKS)]
        case "DeepSpeed":
            return [f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in range(RANKS)]
        case _:
            return [f"default/ocdbt.process_{rank}/d/data" for rank in range(RANKS)]
