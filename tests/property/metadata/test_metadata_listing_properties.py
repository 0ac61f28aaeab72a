"""Listing and comparison, against models that are slow and plain."""

from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from metadata.core import paths
from metadata.core.entries import Entry, Kind
from metadata.core.listing import ListingBuilder
from metadata.core.listing_diff import plan_sync
from understores.base import ObjectInfo

NAMES = st.sampled_from(["a", "b", "a-", "a.", "ab", "z"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)
KEYS = st.one_of(PATHS, PATHS.map(lambda path: path + "/"), st.sampled_from(["a//b", "..", "/", "b/../c"]))


def implied(files: Iterable[str]) -> set[str]:
    return {above for path in files for above in paths.ancestors(path)}


def is_tree(entries: dict[str, Entry]) -> bool:
    return all(above in entries and entries[above].is_directory for path in entries for above in paths.ancestors(path))


@given(st.sets(KEYS, max_size=25), st.integers(1, 4))
def test_every_usable_key_is_an_entry_and_directories_win(keys: set[str], page_size: int) -> None:
    infos = [ObjectInfo(key, 1, "e", 1) for key in sorted(keys)]
    builder = ListingBuilder()
    entries = builder.start(0)
    for start in range(0, len(infos), page_size):
        entries += builder.add(infos[start : start + page_size])
    entries += builder.finish()

    usable = {key for key in keys if key.rstrip("/") and not paths.problem(key.removesuffix("/"))}
    markers = {key[:-1] for key in usable if key.endswith("/")}
    directories = implied(usable) | markers | implied(markers)
    files = {key for key in usable if not key.endswith("/")} - directories
    by_path = {entry.path: entry for entry in entries}
    assert len(by_path) == len(entries)
    assert {path for path, entry in by_path.items() if entry.is_directory} == directories
    assert {path for path, entry in by_path.items() if not entry.is_directory} == files
    assert builder.counts.files == len(files)
    assert builder.counts.unusable_keys == len(keys) - len(usable)
    seen: set[str] = set()
    for entry in entries:
        assert set(paths.ancestors(entry.path)) <= seen
        seen.add(entry.path)


@st.composite
def namespaces(draw: st.DrawFn, versions: st.SearchStrategy[int]) -> dict[str, Entry]:
    """A tree with versions; an entry's directories are not newer than... they may be of any age."""
    chosen = draw(st.dictionaries(PATHS, st.sampled_from([Kind.FILE, Kind.FILE, Kind.MADE]), max_size=10))
    directories = implied(chosen)
    entries: dict[str, Entry] = {}
    for path in sorted(directories | set(chosen)):
        kind = chosen.get(path, Kind.IMPLIED)
        if path in directories and kind is Kind.FILE:
            kind = Kind.IMPLIED
        etag = draw(st.sampled_from(["e1", "e2"])) if kind is Kind.FILE else ""
        entries[path] = Entry(path, kind, 1 if etag else 0, etag, version=draw(versions))
    return entries


def in_order(entries: dict[str, Entry]) -> list[Entry]:
    return sorted(entries.values(), key=lambda entry: paths.split(entry.path))


@settings(max_examples=400)
@given(namespaces(st.sampled_from([1, 1, 5])), namespaces(st.just(0)), st.sets(PATHS, max_size=4), st.booleans())
def test_a_sync_gives_a_tree_that_is_the_listing_but_for_what_changed_meanwhile(
    old: dict[str, Entry], listed: dict[str, Entry], gone: set[str], keeps_made: bool
) -> None:
    listed = {
        path: structs.replace(entry, kind=Kind.IMPLIED) if entry.is_directory else entry
        for path, entry in listed.items()
    }
    removed_since = gone - set(old)
    plan = plan_sync(
        in_order(old),
        in_order(listed),
        base_version=1,
        removed_since=removed_since,
        keeps_made_directories=keeps_made,
    )
    changes = plan.changes
    assert not {entry.path for entry in changes.upserts} & set(changes.removals)
    assert set(changes.removals) <= set(old)
    result = {path: entry for path, entry in old.items() if path not in changes.removals}
    result |= {entry.path: entry for entry in changes.upserts}
    assert is_tree(result)

    fresh = {path: entry for path, entry in old.items() if entry.version > 1}
    for path, entry in fresh.items():
        assert result.get(path) == entry
    for path, entry in result.items():
        assert entry.is_directory or path in fresh or path not in removed_since
    stays = {path for path, entry in old.items() if keeps_made and entry.kind is Kind.MADE}
    if not fresh and not removed_since and not stays:
        assert set(result) == set(listed)
        for path, entry in result.items():
            assert (entry.is_directory, entry.etag) == (listed[path].is_directory, listed[path].etag)


@given(namespaces(st.just(1)))
def test_the_same_listing_again_changes_nothing(old: dict[str, Entry]) -> None:
    assert not plan_sync(in_order(old), in_order(old), base_version=1).changes
