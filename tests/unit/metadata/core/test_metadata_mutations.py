"""The rules of names that the model in tests/property does not spell out: mounts and fields."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from metadata.core import mutations
from metadata.core.datasets import (
    Dataset,
    LastListing,
    Mount,
    Specification,
    failed,
    listed,
    mount_of,
    needs_listing,
    require_writable,
)
from metadata.core.entries import Entry, Kind
from metadata.core.paths import without_nested
from metadata.errors import InvalidRequest, MetadataError, Precondition, Unavailable


@dataclass
class Names:
    """A namespace in a dict."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def entry(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def has_children(self, path: str) -> bool:
        return any(True for _ in self.below(path))

    def below(self, path: str) -> Iterator[Entry]:
        yield from (entry for name, entry in sorted(self.entries.items()) if name.startswith(f"{path}/"))


MOUNTS = (Mount("s3://b"), Mount("s3://ro", path="in/ro", read_only=True))


def dataset(**fields: object) -> Dataset:
    specification = Specification("u", "ns", "n", MOUNTS, writable=True)
    return Dataset(specification, **{"id": 1, "version": 1, "listed_mounts": MOUNTS, **fields})  # type: ignore[arg-type]


def test_directories_that_hold_a_mount_stay_where_they_are() -> None:
    names = Names({path: Entry(path, Kind.IMPLIED) for path in ("in", "in/ro")})
    with pytest.raises(Precondition, match="holds a mount"):
        mutations.rename(names, "in", "out", target_etag="", mtime_ns=0, mounts=MOUNTS)
    with pytest.raises(Precondition, match="holds a mount"):
        mutations.remove(names, "in/ro", directory=True, mounts=MOUNTS)


def test_the_deepest_mount_holds_a_path() -> None:
    assert mount_of(MOUNTS, "in/ro/x") == MOUNTS[1]
    assert mount_of(MOUNTS, "in/rox") == MOUNTS[0]
    assert mount_of(MOUNTS[1:], "elsewhere") is None


@pytest.mark.parametrize(
    ("path", "record", "error", "words"),
    [
        ("in/ro/x", dataset(), Precondition, "on a mount that is readOnly"),
        ("x", dataset(version=0), Unavailable, "first listing is not complete"),
        ("x", dataset(version=0, error="no bucket."), Unavailable, "its listing failed: no bucket."),
        ("x", Dataset(Specification("u", "ns", "n", MOUNTS), version=1), Precondition, "ns/n is read-only"),
    ],
)
def test_what_may_not_be_written_says_why(path: str, record: Dataset, error: type[MetadataError], words: str) -> None:
    with pytest.raises(error, match=words):
        require_writable(record, path)


def test_a_dataset_is_listed_when_it_has_to_be() -> None:
    assert not needs_listing(dataset(), force=False)
    assert needs_listing(dataset(), force=True)
    assert needs_listing(dataset(version=0), force=False)
    assert needs_listing(dataset(error_reason="Unreachable"), force=False)
    assert needs_listing(dataset(listed_mounts=MOUNTS[:1]), force=False)


def test_what_failed_is_left_alone_where_that_is_asked_for() -> None:
    for one in (
        dataset(error_reason="Unreachable"),
        dataset(version=0, error_reason="Unreachable"),
        dataset(error_reason="Unreachable", listed_mounts=MOUNTS[:1]),
    ):
        assert not needs_listing(one, leaves_failed=True)
        assert needs_listing(one, leaves_failed=True, force=True)
        assert needs_listing(one, leaves_failed=True, has_new_mounts=True)
    assert needs_listing(dataset(version=0), leaves_failed=True)
    assert needs_listing(dataset(listed_mounts=MOUNTS[:1]), leaves_failed=True)


def test_a_failed_listing_changes_nothing_but_what_it_says() -> None:
    good = LastListing(10, 20, good_began_at_ns=10, added=1, changed=2, removed=3)
    before = listed(dataset(error="E.", error_reason="R"), good)
    assert (before.error, before.error_reason, before.synced_at_ns, before.listing) == ("", "", 20, good)
    after = failed(failed(before, 30, 40, "Unreachable", "No."), 50, 60, "AccessDenied", "Never.")
    assert after == replace(
        before,
        error="Never.",
        error_reason="AccessDenied",
        listing=replace(good, began_at_ns=50, ended_at_ns=60, failures=2),
    )
    assert listed(after, good).listing.failures == 0


def test_the_same_put_again_changes_nothing() -> None:
    entry = Entry("a/b", Kind.FILE, 1, "e", 2)
    names = Names()
    changes = mutations.put_file(names, entry)
    assert [one.path for one in changes.upserts] == ["a", "a/b"]
    names.entries = {one.path: one for one in changes.upserts}
    assert not mutations.put_file(names, entry)


def test_a_mode_is_permission_bits() -> None:
    with pytest.raises(InvalidRequest, match="mode 0o100644"):
        mutations.put_file(Names(), Entry("a", Kind.FILE, 1, "e", mode=0o100644))


def test_a_directory_does_not_move_into_itself() -> None:
    names = Names({"a": Entry("a", Kind.MADE)})
    with pytest.raises(Precondition, match="into itself"):
        mutations.rename(names, "a", "a/b", target_etag="", mtime_ns=0)


def test_paths_below_another_are_dropped() -> None:
    assert without_nested(["b/c", "a", "a/x", "a-b", "b/c", "a/x/y"]) == ["a", "a-b", "b/c"]
    assert without_nested(["a", ""]) == [""]
