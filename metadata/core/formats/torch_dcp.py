"""torch.distributed.checkpoint: `.metadata` is written last, by rank 0, and lists which bytes of which file hold what.

Complete: every directory with `.distcp` files has a whole `.metadata`, every file it lists is as long as it says, and
none was written after it (the same step saved anew). Only the files of one step's directory count.
"""

import hashlib
import pickletools
import re
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from metadata.core import paths
from metadata.core.entries import Entry
from metadata.core.formats.base import CONTENT_BYTES_MAX, Candidate, Scene, Verdict, written_after
from metadata.core.formats.steps import step_at_end

NAME: Final = "TorchDCP"
METADATA: Final = ".metadata"
_SHARD: Final = re.compile(r"\.distcp$")
_STRINGS: Final = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"})
_NUMBERS: Final = frozenset({"BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4"})
_GETS: Final = frozenset({"BINGET", "LONG_BINGET", "GET"})
_PUTS: Final = frozenset({"BINPUT", "LONG_BINPUT", "PUT"})


@dataclass(frozen=True, slots=True)
class TorchDcpFormat:
    """One directory a step; `.metadata` in it, or in each of its parts (model/, optim/)."""

    def step_of(self, name: str) -> int | None:
        return step_at_end(name)

    def reads(self, scene: Scene) -> Iterable[Entry]:
        return [one for candidate in scene.candidates for one in seals(candidate).values()]

    def judge(self, scene: Scene) -> list[Verdict]:
        return [self._verdict(candidate, scene) for candidate in scene.candidates]

    def _verdict(self, candidate: Candidate, scene: Scene) -> Verdict:
        found = seals(candidate)
        if not found:
            return Verdict(False, problem=f"it has no file {METADATA}")
        parts = {paths.split(one.path)[0] for one in candidate.entries if _SHARD.search(one.path)}
        bare = sorted(parts - found.keys())
        if bare:
            return Verdict(False, problem=f"{bare[0]} has no file {METADATA}")
        sizes = {one.path: one.size_bytes for one in candidate.entries if not one.is_directory}
        for part, seal in found.items():
            problem = _problem(part, seal, sizes, scene.contents.get(seal.path))
            if problem is not None:
                return Verdict(False, problem=problem)
        last = max(found.values(), key=lambda one: (one.version, one.mtime_ns))
        later = written_after(candidate, last)
        if later is not None:
            return Verdict(False, problem=f"its file {later} was written after {METADATA}")
        return Verdict(True, last.mtime_ns, seal=last.path)


def seals(candidate: Candidate) -> dict[str, Entry]:
    """Every `.metadata`, by the directory it is in."""
    files = (one for one in candidate.entries if not one.is_directory)
    return {paths.split(one.path)[0]: one for one in files if paths.split(one.path)[1] == METADATA}


def _problem(part: str, seal: Entry, sizes: dict[str, int], content: bytes | None) -> str | None:
    if seal.size_bytes > CONTENT_BYTES_MAX:
        return None
    listed = _remembered(content or b"")
    if listed is None:
        return f"its {METADATA} is cut off"
    for name, wanted in listed.items():
        has = sizes.get(paths.join(part, name))
        if has is None:
            return f"it lacks the file {name}, which {METADATA} lists"
        if has < wanted:
            return f"its file {name} has {has} bytes of {wanted} that {METADATA} lists"
    return None


#: A memory of `listed_bytes` by digest: each list of checkpoints asks again about the same ones.
_KNOWN: OrderedDict[bytes, dict[str, int] | None] = OrderedDict()
_KNOWN_MAX: Final = 512


def _remembered(pickled: bytes) -> dict[str, int] | None:
    digest = hashlib.blake2b(pickled, digest_size=16).digest()
    if digest not in _KNOWN:
        _KNOWN[digest] = listed_bytes(pickled)
        while len(_KNOWN) > _KNOWN_MAX:
            _KNOWN.popitem(last=False)
    return _KNOWN[digest]


def listed_bytes(pickled: bytes) -> dict[str, int] | None:
    """Return how long each file has to be by the records in a `.metadata`; None when it is not a whole pickle.

    The pickle is scanned, never loaded: it comes from a user's program. A record is a dict of `relative_path`, `offset`
    and `length`, in this order, as every release of torch has written it since 2.0."""
    atoms: list[object] = []
    memo: dict[int, object] = {}
    pushed: object = None
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            name = opcode.name
            if name == "MEMOIZE":
                memo[len(memo)] = pushed
            elif name in _PUTS and isinstance(argument, int):
                memo[argument] = pushed
            else:
                is_atom = name in _STRINGS or name in _NUMBERS
                recalled = memo.get(argument) if name in _GETS and isinstance(argument, int) else None
                pushed = argument if is_atom else recalled
                if pushed is not None:
                    atoms.append(pushed)
    except (ValueError, IndexError, TypeError):
        return None
    return _lengths(atoms)


def _lengths(atoms: list[object]) -> dict[str, int]:
    found: defaultdict[str, int] = defaultdict(int)
    for at in range(len(atoms) - 5):
        if atoms[at] == "relative_path" and atoms[at + 2] == "offset" and atoms[at + 4] == "length":
            name, offset, length = atoms[at + 1], atoms[at + 3], atoms[at + 5]
            if isinstance(name, str) and isinstance(offset, int) and isinstance(length, int):
                found[name] = max(found[name], offset + length)
    return dict(found)


def torch_dcp(marker: str) -> TorchDcpFormat:
    """No options."""
    return TorchDcpFormat()
