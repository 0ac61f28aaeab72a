"""What becomes of object keys."""

import pytest

from metadata.core.entries import Entry, Kind
from metadata.core.listing import ListingBuilder, ListingCounts
from understores.base import ObjectInfo


def built(*keys: str, mount_path: str = "", mounts: tuple[str, ...] = ()) -> tuple[dict[str, Kind], ListingCounts]:
    builder = ListingBuilder(mount_path, mounts)
    entries: list[Entry] = builder.start(7)
    for key in sorted(keys):
        entries += builder.add([ObjectInfo(key, 3, "e", 9)])
    entries += builder.finish()
    assert len({entry.path for entry in entries}) == len(entries)
    return {entry.path: entry.kind for entry in entries}, builder.counts


def test_directories_are_implied_by_keys() -> None:
    entries, counts = built("a/b/c", "a/d", "e")
    assert entries == {
        "a": Kind.IMPLIED,
        "a/b": Kind.IMPLIED,
        "a/b/c": Kind.FILE,
        "a/d": Kind.FILE,
        "e": Kind.FILE,
    }
    assert (counts.files, counts.bytes, counts.directories) == (3, 9, 2)


def test_a_directory_wins_over_a_file_of_its_name() -> None:
    entries, counts = built("a", "a-b", "a.txt", "a/b", "a/b/c", "ab")
    assert entries["a"] is Kind.IMPLIED
    assert entries["a/b"] is Kind.IMPLIED
    assert sorted(path for path, kind in entries.items() if kind is Kind.FILE) == ["a-b", "a.txt", "a/b/c", "ab"]
    assert (counts.shadowed, counts.files) == (2, 4)


def test_markers_are_directories() -> None:
    entries, counts = built("empty/", "full/", "full/x", "name", "name/")
    assert entries == {
        "empty": Kind.IMPLIED,
        "full": Kind.IMPLIED,
        "full/x": Kind.FILE,
        "name": Kind.IMPLIED,
    }
    assert (counts.files, counts.shadowed) == (1, 1)


@pytest.mark.parametrize("key", ["a//b", "/a", "a/../b", "..", "./a", "a\0b", "a//", "x" * 256, "y/" * 2100 + "z"])
def test_keys_that_are_no_paths_are_counted_and_left_out(key: str) -> None:
    entries, counts = built(key, "good")
    assert entries == {"good": Kind.FILE}
    assert counts.unusable_keys == 1


def test_names_that_are_not_utf8_are_counted_and_left_out() -> None:
    assert built("bad\udcff")[1].unusable_keys == 1


def test_a_mount_shows_below_its_path_even_when_it_is_empty() -> None:
    assert built(mount_path="data/raw")[0] == {"data": Kind.IMPLIED, "data/raw": Kind.IMPLIED}
    assert built("x/y", mount_path="m")[0] == {"m": Kind.IMPLIED, "m/x": Kind.IMPLIED, "m/x/y": Kind.FILE}


def test_what_another_mount_covers_is_hidden() -> None:
    entries, counts = built("b", "b/x", "b2", "c", mounts=("", "b"))
    assert entries == {"b2": Kind.FILE, "c": Kind.FILE}
    assert counts.hidden == 2
    assert built("x", mount_path="b", mounts=("", "b"))[1].hidden == 0


@pytest.mark.parametrize("mount_path", ["", "in/here"])
def test_times_that_no_column_holds_are_cut_to_the_nearest_that_does(mount_path: str) -> None:
    """Of a file from the year 9999: the rest of its store is listed all the same."""
    builder = ListingBuilder(mount_path)
    times = [0, 253_402_300_799 * 10**9, -(1 << 70), 7]
    found = (
        builder.add([ObjectInfo(f"d/{number}", 1, "e", time) for number, time in enumerate(times)]) + builder.finish()
    )
    assert [entry.mtime_ns for entry in found if not entry.is_directory] == [0, (1 << 63) - 1, -(1 << 63), 7]
