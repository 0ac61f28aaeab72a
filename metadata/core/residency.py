"""The residency ledger: which worker holds which bytes of which object versions.

Owns counting. Soft state, built from reports alone. Pure. For every path it knows the etag of the current
snapshot; only bytes of that version count, others wait (a worker may report a file it just wrote before its
PutFile is committed) until the version becomes current or the worker drops them. Sums are kept up for every
directory at each change, so that no question costs more than its answer.
Invariants: sums equal what a recount over all files gives (`recount`); distinct + copies = all counted bytes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from metadata.core import paths
from metadata.core.entries import FILE_BYTES_MAX
from metadata.errors import InvalidRequest

GROUPS_MAX = 64


@dataclass(frozen=True, slots=True)
class Held:
    """What one worker holds of one object version. `blocks` is the report's bitmap; empty = all blocks."""

    medium: str
    size_bytes: int
    resident_bytes: int
    blocks: bytes = b""
    block_size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Residence:
    """One line of a block report; `held.resident_bytes` 0 = gone."""

    uid: str
    path: str
    etag: str
    held: Held


def check(files: Iterable[Residence]) -> None:
    """InvalidRequest when a line of a report has more bytes than any file."""
    for one in files:
        if max(one.held.size_bytes, one.held.resident_bytes) > FILE_BYTES_MAX:
            raise InvalidRequest(
                f"{one.path[:200]!r} of the report has {one.held.resident_bytes} of {one.held.size_bytes} bytes; "
                f"a file has at most {FILE_BYTES_MAX}."
            )


@dataclass(frozen=True, slots=True)
class NodeBytes:
    """Counted bytes of one dataset on one node: by medium, and by top-level directory when there are few."""

    by_medium: dict[str, int]
    by_group: dict[str, int]


@dataclass(slots=True)
class _File:
    current_etag: str | None
    versions: dict[tuple[str, str], Held] = field(default_factory=dict)  # (node, etag)
    distinct: int = 0
    copies: int = 0


@dataclass(slots=True)
class _Dataset:
    files: dict[str, _File] = field(default_factory=dict)
    # directory → (node, medium) → bytes at or below it; "" is the whole dataset
    sums: dict[str, dict[tuple[str, str], int]] = field(default_factory=dict)
    tops: set[str] = field(default_factory=set)  # those of `sums` that lie in the root
    distinct: int = 0
    copies: int = 0


class Ledger:
    """Residency of all datasets. Not safe for threads: one event loop owns it."""

    def __init__(self) -> None:
        self._datasets: dict[str, _Dataset] = {}
        self._by_node: dict[str, set[tuple[str, str]]] = {}  # node → (uid, path)
        self._changed: set[str] = set()

    def take_changed(self) -> set[str]:
        """Return the datasets whose counts may have changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def put(self, node: str, residence: Residence, current_etag: str | None) -> None:
        """Take one line of a report; `current_etag` is the snapshot's for that path, None when it has no such file."""
        dataset = self._datasets.setdefault(residence.uid, _Dataset())
        file = dataset.files.get(residence.path)
        if file is None:
            if not residence.held.resident_bytes:
                return
            file = dataset.files[residence.path] = _File(current_etag)
        self._count(residence.uid, dataset, residence.path, file, -1)
        file.current_etag = current_etag
        if residence.held.resident_bytes:
            file.versions[node, residence.etag] = residence.held
            self._by_node.setdefault(node, set()).add((residence.uid, residence.path))
        else:
            file.versions.pop((node, residence.etag), None)
            self._drop_index(node, residence.uid, residence.path, file)
        self._finish(residence.uid, dataset, residence.path, file)

    def forget_node(self, node: str) -> None:
        """The worker died or started anew: nothing it held counts."""
        for uid, path in self._by_node.pop(node, set()):
            dataset = self._datasets[uid]
            file = dataset.files[path]
            self._count(uid, dataset, path, file, -1)
            for key in [key for key in file.versions if key[0] == node]:
                del file.versions[key]
            self._finish(uid, dataset, path, file)

    def forget_dataset(self, uid: str) -> None:
        """The dataset is gone."""
        dataset = self._datasets.pop(uid, None)
        for path, file in dataset.files.items() if dataset else ():
            for node, _ in file.versions:
                self._by_node.get(node, set()).discard((uid, path))

    def set_current(self, uid: str, etags: Iterable[tuple[str, str | None]]) -> None:
        """Paths whose current version changed; None = no such file any more."""
        dataset = self._datasets.get(uid)
        for path, etag in etags if dataset else ():
            file = dataset.files.get(path) if dataset else None
            if dataset is None or file is None or file.current_etag == etag:
                continue
            self._count(uid, dataset, path, file, -1)
            file.current_etag = etag
            self._finish(uid, dataset, path, file)

    def paths_held(self, uid: str) -> list[str]:
        """Every path of the dataset of which some worker holds some version."""
        dataset = self._datasets.get(uid)
        return list(dataset.files) if dataset else []

    def totals(self, uid: str) -> tuple[int, int]:
        """(distinct bytes resident somewhere, bytes of further copies)."""
        dataset = self._datasets.get(uid)
        return (dataset.distinct, dataset.copies) if dataset else (0, 0)

    def on_node(self, node: str) -> dict[str, NodeBytes]:
        """Counted bytes on a node by dataset uid; datasets without any are left out."""
        answer: dict[str, NodeBytes] = {}
        for uid, dataset in self._datasets.items():
            by_medium = _of_node(dataset.sums.get("", {}), node)
            if by_medium:
                answer[uid] = NodeBytes(by_medium, self._groups(dataset, node))
        return answer

    def below(self, uid: str, tops: Iterable[str]) -> dict[str, int]:
        """Counted bytes by node of the given files and directories, each byte once however the paths overlap."""
        dataset = self._datasets.get(uid)
        answer: dict[str, int] = {}
        for top in paths.without_nested(tops) if dataset else ():
            assert dataset is not None
            for (node, _), count in self._counted(dataset, top):
                answer[node] = answer.get(node, 0) + count
        return answer

    def recount(self, uid: str) -> tuple[dict[tuple[str, str], int], int, int]:
        """The dataset's sums by (node, medium), distinct and copies, counted anew from every file; for tests."""
        sums: dict[tuple[str, str], int] = {}
        distinct = copies = 0
        dataset = self._datasets.get(uid, _Dataset())
        for file in dataset.files.values():
            held = _current(file)
            for (node, _), one in held.items():
                key = (node, one.medium)
                sums[key] = sums.get(key, 0) + one.resident_bytes
            of_file = distinct_bytes(held.values())
            distinct += of_file
            copies += sum(one.resident_bytes for one in held.values()) - of_file
        return sums, distinct, copies

    def _counted(self, dataset: _Dataset, top: str) -> Iterable[tuple[tuple[str, str], int]]:
        if top in dataset.sums:
            return list(dataset.sums[top].items())
        file = dataset.files.get(top)
        return [((node, one.medium), one.resident_bytes) for (node, _), one in _current(file).items()] if file else []

    def _groups(self, dataset: _Dataset, node: str) -> dict[str, int]:
        if len(dataset.tops) > GROUPS_MAX:
            return {}
        counts = {top: sum(_of_node(dataset.sums[top], node).values()) for top in sorted(dataset.tops)}
        return {top: count for top, count in counts.items() if count}

    def _finish(self, uid: str, dataset: _Dataset, path: str, file: _File) -> None:
        if not file.versions:
            del dataset.files[path]
            if not dataset.files:
                del self._datasets[uid]
            return
        held = _current(file)
        file.distinct = distinct_bytes(held.values())
        file.copies = sum(one.resident_bytes for one in held.values()) - file.distinct
        self._count(uid, dataset, path, file, +1)

    def _count(self, uid: str, dataset: _Dataset, path: str, file: _File, sign: int) -> None:
        held = _current(file)
        self._changed.add(uid)
        dataset.distinct += sign * file.distinct
        dataset.copies += sign * file.copies
        for directory in (*paths.ancestors(path), "") if held else ():
            sums = dataset.sums.setdefault(directory, {})
            for (node, _), one in held.items():
                key = (node, one.medium)
                count = sums.get(key, 0) + sign * one.resident_bytes
                if count:
                    sums[key] = count
                else:
                    del sums[key]
            if not sums:
                del dataset.sums[directory]
            if directory and "/" not in directory:
                (dataset.tops.add if sums else dataset.tops.discard)(directory)

    def _drop_index(self, node: str, uid: str, path: str, file: _File) -> None:
        if not any(holder == node for holder, _ in file.versions):
            self._by_node.get(node, set()).discard((uid, path))


def distinct_bytes(held: Iterable[Held]) -> int:
    """Bytes of one object version that are resident at least once, over all its holders."""
    holders = list(held)
    if not holders:
        return 0
    size = holders[0].size_bytes
    largest = max(one.resident_bytes for one in holders)
    block_size = holders[0].block_size_bytes
    if len(holders) == 1 or largest >= size:
        return min(largest, size)
    if block_size < 1 or any(one.block_size_bytes != block_size or not one.blocks for one in holders):
        return largest  # bitmaps that cannot be compared: at least the fullest holder's bytes are there
    block_count = -(-size // block_size)
    union = 0
    for one in holders:
        union |= int.from_bytes(one.blocks, "little")
    union &= (1 << block_count) - 1
    last_block_bytes = size - (block_count - 1) * block_size
    has_last = union >> (block_count - 1) & 1
    count = union.bit_count() * block_size - (block_size - last_block_bytes if has_last else 0)
    return max(largest, count)


def _current(file: _File) -> dict[tuple[str, str], Held]:
    if file.current_etag is None:
        return {}
    return {key: held for key, held in file.versions.items() if key[1] == file.current_etag}


def _of_node(sums: Mapping[tuple[str, str], int], node: str) -> dict[str, int]:
    return {medium: count for (holder, medium), count in sums.items() if holder == node}
