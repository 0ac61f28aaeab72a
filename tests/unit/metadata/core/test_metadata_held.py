"""What changes of a namespace do to versions that two workers hold, and whose turn a path is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from api.held import HeldName, held_name, is_held
from metadata.core.checkpoints import checkpoints, contents_wanted, scene
from metadata.core.entries import Changes, Entry, Kind
from metadata.core.formats.registry import checkpoint_format
from metadata.core.held import Effects, HeldFile, HeldState, Standing, Turn, effects, new_file, require_turns
from metadata.core.listing_diff import plan_sync
from metadata.errors import Precondition, Unavailable

H1, H2 = (HeldName(letter * 32, ("n1", "n2")).etag for letter in "12")
ALIVE = Standing({"n1": (5, True), "n2": (3, False)}, is_settled=True)


def file(path: str, etag: str = "e", version: int = 0) -> Entry:
    return Entry(path, Kind.FILE, 7, etag, version=version)


@dataclass
class Namespace:
    entries: list[Entry] = field(default_factory=list)
    rows: list[HeldFile] = field(default_factory=list)
    turns: Mapping[str, Turn] = field(default_factory=dict)

    def after(self, changes: Changes) -> Effects:
        return effects(changes, self.entry, self.held, self.turns.get, 99)

    def check(self, changes: Changes, mine: str = "", standing: Standing = ALIVE) -> None:
        require_turns(changes, mine, self.entry, self.turns.get, standing)

    def entry(self, path: str) -> Entry | None:
        return next((one for one in self.entries if one.path == path), None)

    def held(self, etag: str) -> HeldFile | None:
        return next((one for one in self.rows if one.etag == etag), None)


def test_etags_of_held_versions_name_their_holders() -> None:
    name = HeldName("0f" * 16, ("node-1.example", "node-2"))
    assert held_name(name.etag) == name and is_held(name.etag)
    for other in ("", "held-", '"900150983cd24fb0"', "held-" + "0" * 32, f"held-{'0' * 31}@a,b", name.etag + ",c"):
        assert held_name(other) is None and not is_held(other)


def test_a_version_waits_from_the_moment_it_is_shown() -> None:
    found = Namespace().after(Changes([file("a", H1)]))
    assert found == Effects([HeldFile(H1, "a", 7, left=("n1", "n2"))], 1, 7)
    # Over an object, or one that may come, that one is in the under store still.
    over = Namespace([file("a")]).after(Changes([file("a", H1)]))
    assert over.rows == [HeldFile(H1, "a", 7, leaves_object=True, left=("n1", "n2"))]
    turn = Turn("t", "n1", 5, is_upload=True)
    assert Namespace(turns={"a": turn}).after(Changes([file("a", H1)])).rows[0].leaves_object


@pytest.mark.parametrize("changes", [Changes([file("a", "object")]), Changes(removals=["a"]), Changes([file("a", H2)])])
def test_what_is_replaced_or_removed_is_gone(changes: Changes) -> None:
    row = new_file(H1, "a", 7, leaves_object=True)
    found = Namespace([file("a", H1)], [row]).after(changes)
    gone = replace(row, state=HeldState.GONE, ended_at_ns=99)
    assert gone in found.rows
    if changes.upserts and changes.upserts[0].etag == H2:
        # It takes on what the under store may have there.
        assert found == Effects([new_file(H2, "a", 7, leaves_object=True), gone], 0, 0)
    else:
        assert found == Effects([gone], -1, -7)


@pytest.mark.parametrize("under", [None, "object", "held"])
def test_a_renamed_version_waits_under_its_new_name(under: str | None) -> None:
    source, there = new_file(H1, "a", 7, leaves_object=True), new_file(H2, "b", 7, leaves_object=False)
    entries = [file("a", H1), *([file("b", H2 if under == "held" else "e")] if under else [])]
    found = Namespace(entries, [source, there]).after(Changes([file("b", H1)], ["a"]))
    moved = replace(source, path="b", leaves_object=under == "object")
    gone = [replace(there, state=HeldState.GONE, ended_at_ns=99)] if under == "held" else []
    assert found == Effects([moved, *gone], -len(gone), -7 * len(gone))


def test_a_version_whose_row_was_lost_is_one_of_which_nothing_is_known() -> None:
    found = Namespace([file("a", H1)]).after(Changes([file("b", H1)], ["a"]))
    assert found.rows == [new_file(H1, "b", 7, leaves_object=False)] and not found.files


def test_a_path_is_changed_by_who_has_its_turn() -> None:
    mine, theirs = Turn("mine", "n1", 5), Turn("theirs", "n1", 5)
    removal, put = Changes(removals=["a"]), Changes([file("a", "object")])
    for changes in (removal, put):
        Namespace([file("a")]).check(changes)
        Namespace([file("a")], turns={"a": mine}).check(changes, "mine")
        with pytest.raises(Unavailable, match="another worker"):
            Namespace([file("a")], turns={"a": theirs}).check(changes)
        with pytest.raises(Unavailable, match="taken away"):
            Namespace([file("a")]).check(changes, "mine")
        with pytest.raises(Precondition, match="not in the under store yet"):
            Namespace([file("a", H1)]).check(changes)
        Namespace([file("a", H1)], turns={"a": mine}).check(changes, "mine")


def test_a_held_version_is_shown_beside_an_upload_and_not_beside_a_change() -> None:
    upload, change = Turn("t", "n1", 5, is_upload=True), Turn("t", "n1", 5)
    for changes in (Changes([file("b", H2)]), Changes([file("b", H2)], ["a"])):
        mine = {"a": Turn("mine", "n1", 5)}
        space = Namespace([file("a", H2), file("b", H1)], turns={"b": upload, **mine})
        space.check(changes, "mine")
        with pytest.raises(Unavailable):
            replace(space, turns={"b": change, **mine}).check(changes, "mine")
    with pytest.raises(Unavailable):  # its own upload is waited for
        Namespace([file("a", H2)], turns={"a": upload}).check(Changes([file("b", H2)], ["a"]), "mine")


@pytest.mark.parametrize(
    ("turn", "standing", "has_ended"),
    [
        (Turn("t", "n1", 5), ALIVE, False),
        (Turn("t", "n1", 4), ALIVE, True),  # its worker started anew
        (Turn("t", "n2", 3), ALIVE, True),  # its lease is over
        (Turn("t", "n2", 3), replace(ALIVE, is_settled=False), False),  # or nobody could be heard yet
        (Turn("t", "n3", 1), ALIVE, True),
        (Turn("t", "n3", 1), replace(ALIVE, is_settled=False), False),
    ],
)
def test_a_turn_ends_with_its_worker(turn: Turn, standing: Standing, has_ended: bool) -> None:
    assert standing.has_ended(turn) is has_ended


@pytest.mark.parametrize("listed", [[], [file("a", "older")]])
def test_a_listing_leaves_alone_what_the_under_store_does_not_have_yet(listed: list[Entry]) -> None:
    assert not plan_sync([file("a", H1, 3)], listed, base_version=9).changes
    # Nor, when it began before that, what was uploaded since.
    assert not plan_sync([file("a", "new", 3)], listed, base_version=9, removed_since={"a"}).changes


def test_a_checkpoint_is_complete_when_all_of_it_is_in_the_under_store() -> None:
    kind = checkpoint_format("Marker", "DONE")

    def judged(etag: str) -> tuple[bool, str]:
        below = [file("c/step-1/w", etag), file("c/step-1/DONE", "e", 2)]
        children = [Entry("c/step-1", Kind.IMPLIED)]
        (found,) = checkpoints(children, lambda _: below, kind)
        return found.complete, found.problem

    assert judged("e") == (True, "")
    assert judged(H1) == (False, "1 of its 2 files are not in the under store yet")


def test_files_that_cannot_be_read_yet_are_not_read() -> None:
    kind = checkpoint_format("TorchDCP", "")
    below = [file("c/step-1/.metadata", H1), file("c/step-1/0.distcp", H2)]
    seen = scene([Entry("c/step-1", Kind.IMPLIED)], lambda _: below, kind)
    assert contents_wanted(seen, kind) == []
