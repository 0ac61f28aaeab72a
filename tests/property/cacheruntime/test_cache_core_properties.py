"""Properties of the cache's pure core: codec, homes, shares of a load, eviction and the ledger of reports."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacheruntime.core.block_map import BlockMap, MapError, decode
from cacheruntime.core.blocks import Version, block_count, block_length, blocks_of_range, extents_of, overlap_bytes
from cacheruntime.core.eviction import Candidate, victims
from cacheruntime.core.homes import homes_of, rank
from cacheruntime.core.load_plan import FAN_OUT, Scope, place_of, share_of, stages
from cacheruntime.core.reports import ReportState

BLOCK = 64
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.integers(0, 20 * BLOCK)
nodes = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=8, unique=True).map(
    lambda found: tuple(sorted(found))
)


@st.composite
def maps(draw: st.DrawFn) -> BlockMap:
    version = Version(draw(names), draw(names), draw(names), draw(sizes))
    block_map = BlockMap(version, BLOCK, is_home=draw(st.booleans()))
    for index in draw(st.sets(st.integers(0, max(block_map.count - 1, 0)))):
        if index < block_map.count:
            block_map.add(index, draw(st.integers(0, 2**32 - 1)))
    return block_map


@given(maps())
def test_a_map_survives_its_file(block_map: BlockMap) -> None:
    read = decode(block_map.encode())
    assert (read.version, read.block_size_bytes, read.is_home) == (block_map.version, BLOCK, block_map.is_home)
    assert read.resident_blocks() == block_map.resident_blocks()
    assert read.resident_bytes == block_map.resident_bytes == sum(map(read.length, read.resident_blocks()))
    assert all(read.checksum(i) == block_map.checksum(i) for i in read.resident_blocks())


@given(maps(), st.data())
def test_patches_in_place_equal_writing_the_map_anew(block_map: BlockMap, data: st.DataObject) -> None:
    stored = bytearray(block_map.encode())
    for index in data.draw(st.lists(st.integers(0, 19))):
        if index >= block_map.count:
            continue
        if data.draw(st.booleans()):
            block_map.add(index, data.draw(st.integers(0, 2**32 - 1)))
        else:
            block_map.drop(index)
        for offset, piece in block_map.patch(index):
            stored[offset : offset + len(piece)] = piece
    assert bytes(stored) == block_map.encode()


@given(maps(), st.data())
def test_a_torn_or_damaged_map_is_no_map_or_still_names_its_object(block_map: BlockMap, data: st.DataObject) -> None:
    raw = bytearray(block_map.encode())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        read = decode(bytes(raw))
    except MapError:
        return
    # Damage behind the header is found against the data; the object's identity is never another one.
    assert len(raw) == len(block_map.encode())
    assert read.version == block_map.version


@given(st.binary(max_size=300))
def test_any_bytes_are_a_map_or_a_map_error(raw: bytes) -> None:
    with pytest.raises(MapError):
        decode(raw)


@given(sizes, st.integers(0, 25 * BLOCK), st.integers(0, 25 * BLOCK))
def test_the_blocks_of_a_range_cover_it_exactly(size: int, offset: int, length: int) -> None:
    blocks = blocks_of_range(offset, length, size, BLOCK)
    covered = sum(overlap_bytes(i, offset, length, size, BLOCK) for i in blocks)
    assert covered == max(0, min(offset + length, size) - offset)
    assert all(overlap_bytes(i, offset, length, size, BLOCK) > 0 for i in blocks)


@given(st.integers(1, 20 * BLOCK), st.data())
def test_extents_hold_their_blocks_and_do_not_touch(size: int, data: st.DataObject) -> None:
    indexes = data.draw(st.sets(st.integers(0, block_count(size, BLOCK) - 1)))
    extents = extents_of(indexes, size, BLOCK)
    assert sum(length for _, length in extents) == sum(block_length(i, size, BLOCK) for i in indexes)
    assert all(a + n < b for (a, n), (b, _) in pairwise(extents))


@given(nodes, names, st.integers(0, 50), st.integers(0, 7))
def test_a_leaving_node_moves_only_its_own_blocks(members: tuple[str, ...], path: str, block: int, which: int) -> None:
    leaving = members[which % len(members)]
    rest = tuple(node for node in members if node != leaving)
    before = rank("u", path, block, members)
    assert sorted(before) == list(members)
    assert rank("u", path, block, rest) == [node for node in before if node != leaving]


def test_homes_are_spread_evenly() -> None:
    members = tuple(f"node-{i}" for i in range(10))
    count = Counter(rank("u", f"dir/file-{i}", i % 3, members)[0] for i in range(20_000))
    # 2,000 expected each; the standard deviation is 42.
    assert all(1_800 < count[node] < 2_200 for node in members)


@given(nodes, st.integers(1, 4), st.lists(sizes, max_size=5))
def test_shares_hold_every_block_exactly_replicas_times(
    members: tuple[str, ...], replicas: int, manifest: list[int]
) -> None:
    held: Counter[tuple[str, int]] = Counter()
    files: Counter[str] = Counter()
    for number, size in enumerate(manifest):
        version = Version("u", f"f{number}", "e", size)
        for node in members:
            share = share_of(version, BLOCK, Scope(node, members, replicas))
            if share is not None:
                files[version.path] += 1
                held.update((version.path, block) for block in share.blocks)
                assert share.size_bytes == sum(block_length(i, size, BLOCK) for i in share.blocks)
    expected = min(replicas, len(members))
    blocks = {(f"f{n}", b) for n, size in enumerate(manifest) for b in range(block_count(size, BLOCK))}
    assert held == dict.fromkeys(blocks, expected)
    assert all(files[f"f{n}"] >= 1 for n in range(len(manifest)))


@given(nodes, st.data())
def test_named_nodes_hold_everything_and_others_nothing(members: tuple[str, ...], data: st.DataObject) -> None:
    chosen = frozenset(data.draw(st.sets(st.sampled_from(members), min_size=1)))
    for node in members:
        share = share_of(Version("u", "p", "e", 5 * BLOCK), BLOCK, Scope(node, members, whole_on=chosen))
        assert (share.blocks if share else ()) == (tuple(range(5)) if node in chosen else ())


@given(nodes, st.integers(1, 12), st.booleans(), st.integers(0, 20))
def test_copies_go_by_a_tree_from_the_home(
    members: tuple[str, ...], replicas: int, everywhere: bool, block: int
) -> None:
    whole_on = frozenset(members) if everywhere else frozenset()
    version = Version("u", "p", "e", 21 * BLOCK)
    keep = members if everywhere else rank("u", "p", block, members)[:replicas]
    places = {node: place_of(version, block, Scope(node, members, replicas, whole_on)) for node in keep}
    (root,) = (node for node in keep if places[node].depth == 0)
    assert root == rank("u", "p", block, members)[0]
    takers = Counter(place.parent or root for node, place in places.items() if node != root)
    assert all(count <= FAN_OUT for count in takers.values())
    for node, place in places.items():
        if node != root:
            assert place.depth == places[place.parent or root].depth + 1, "whoever it takes it from brings it before"


@given(nodes, st.integers(1, 4), sizes)
def test_stages_are_the_share_in_the_order_of_the_tree(members: tuple[str, ...], replicas: int, size: int) -> None:
    version = Version("u", "p", "e", size)
    for node in members:
        scope = Scope(node, members, replicas)
        share = share_of(version, BLOCK, scope)
        parts = stages([share] if share else [], BLOCK, scope)
        assert sorted(i for stage in parts for part in stage for i in part.blocks) == list(
            share.blocks if share else ()
        )
        assert sum(part.size_bytes for stage in parts for part in stage) == (share.size_bytes if share else 0)
        assert sum(map(len, parts)) >= (share is not None), "an empty file is one with nothing to fetch"
        depths = [place_of(version, i, scope).depth for stage in parts for part in stage for i in part.blocks]
        assert depths == sorted(depths)


candidates = st.builds(
    Candidate,
    name=st.uuids().map(str),
    uid=st.sampled_from(["u1", "u2", "u3"]),
    tier=st.integers(0, 1),
    resident_bytes=st.integers(0, 100),
    is_home=st.booleans(),
    is_referenced=st.booleans(),
    is_pinned=st.booleans(),
    last_used_seconds=st.floats(0, 100),
    refetch_seconds_per_byte=st.sampled_from([0.0, 1e-9, 1.1e-9, 1e-7]),
)


def is_worth_less(one: Candidate, other: Candidate) -> bool:
    """By the rules in words: a copy below a home, then more than twice as fast to bring back, then the older use."""
    if one.is_home != other.is_home:
        return other.is_home
    fast, slow = one.refetch_seconds_per_byte, other.refetch_seconds_per_byte
    if one.is_home and fast and slow and max(fast, slow) > 2 * min(fast, slow):
        return fast < slow
    same = fast == slow or not one.is_home
    return same and one.last_used_seconds < other.last_used_seconds


@given(st.lists(candidates, max_size=20, unique_by=lambda c: c.name), st.integers(1, 300), st.booleans())
def test_victims_are_allowed_least_valuable_and_enough(files: list[Candidate], needed: int, as_home: bool) -> None:
    chosen = victims(files, needed_bytes=needed, tier=0, uid="u1", as_home=as_home)
    allowed = [
        c
        for c in files
        if c.tier == 0
        and c.resident_bytes
        and not c.is_pinned
        and not c.is_referenced
        and (c.uid != "u1" or (as_home and not c.is_home))
    ]
    assert all(victim in allowed for victim in chosen)
    if chosen:
        assert sum(c.resident_bytes for c in chosen) >= needed
        assert sum(c.resident_bytes for c in chosen[:-1]) < needed
        left = [c for c in allowed if c not in chosen]
        assert not any(is_worth_less(other, victim) for victim in chosen for other in left)
    else:
        assert sum(c.resident_bytes for c in allowed) < needed


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["add", "drop", "send", "lose", "full"]), st.integers(0, 5)), max_size=40))
def test_the_service_knows_what_is_held_whatever_gets_lost(steps: list[tuple[str, int]]) -> None:
    """Against a service as metadata is: full replaces, gaps and lost reports ask for a full one."""
    state = ReportState(batch_files_max=2)
    held: set[str] = set()
    known: set[str] = set()
    last: int | None = 0

    def send(*, is_lost: bool, is_taken: bool) -> None:
        nonlocal known, last
        batch = state.next_batch(sorted(held))
        if is_taken:
            if batch.is_full:
                known, last = set(), batch.sequence
            elif last is None or batch.sequence != last + 1:
                last = None
                state.need_full()
                return
            last = batch.sequence
            known = (known - set(batch.names)) | (held & set(batch.names))
        if is_lost:
            state.failed(batch)

    for step, number in steps:
        name = f"f{number}"
        match step:
            case "add":
                held.add(name)
                state.changed(name)
            case "drop":
                held.discard(name)
                state.changed(name)
            case "send":
                send(is_lost=False, is_taken=True)
            case "lose":
                send(is_lost=True, is_taken=number % 2 == 0)
            case _:
                state.need_full()
    for _ in range(20):
        if not state.has_changes:
            break
        send(is_lost=False, is_taken=True)
    assert known == held


@given(nodes, st.integers(1, 5))
def test_homes_are_the_first_of_the_ranking(members: tuple[str, ...], replicas: int) -> None:
    assert homes_of("u", "p", 0, members, replicas) == rank("u", "p", 0, members)[:replicas]
