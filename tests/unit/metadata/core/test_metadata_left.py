"""Objects renames leave: no listing shows them, and somebody takes them away."""

import dataclasses

import pytest
from msgspec import structs

from api.held import HeldName
from metadata.core.entries import Changes, Entry, Kind
from metadata.core.held import Standing, effects
from metadata.core.left import LeftObject, gone, to_take_away
from metadata.core.listing_diff import plan_sync

LEFT = {"d/old": "e"}
OLD, NEW = Entry("d/old", Kind.FILE, 1, "e"), Entry("d/new", Kind.FILE, 1, "e", version=2)
DIRECTORY = Entry("d", Kind.IMPLIED, version=1)
ONE = LeftObject("p", "e", "n1", 7)
ALIVE = Standing({"n1": (5, True), "n2": (3, True)}, is_settled=True)


def test_a_listing_does_not_show_what_a_rename_left() -> None:
    plan = plan_sync([DIRECTORY, NEW], [DIRECTORY, structs.replace(NEW, version=0), OLD], base_version=9, left=LEFT)
    assert not plan.changes and plan.listed == 2


def test_a_listing_shows_another_object_of_that_name() -> None:
    found = structs.replace(OLD, etag="of somebody else")
    plan = plan_sync([DIRECTORY, NEW], [DIRECTORY, structs.replace(NEW, version=0), found], base_version=9, left=LEFT)
    assert plan.changes == Changes([found])


def test_a_directory_that_took_the_name_stays() -> None:
    made = Entry("old", Kind.MADE, version=3)
    plan = plan_sync([made], [Entry("old", Kind.FILE, 1, "e")], base_version=9, left={"old": "e"})
    assert not plan.changes


@pytest.mark.parametrize(
    ("node", "standing", "is_asked"),
    [
        ("n1", ALIVE, True),
        ("n2", ALIVE, False),
        ("n2", Standing({"n1": (5, False), "n2": (3, True)}, is_settled=True), True),
        ("n2", Standing({"n2": (3, True)}, is_settled=True), True),
        ("n2", Standing({"n2": (3, True)}, is_settled=False), False),  # it had no time yet to say that it lives
    ],
)
def test_a_worker_takes_its_own_away_and_those_of_the_dead(node: str, standing: Standing, is_asked: bool) -> None:
    assert to_take_away([ONE, dataclasses.replace(ONE, is_gone=True)], node, standing) == ([ONE] if is_asked else [])


def test_what_a_listing_may_have_seen_is_remembered_until_it_ends() -> None:
    assert gone(ONE, is_listing=False) is None
    assert gone(ONE, is_listing=True) == dataclasses.replace(ONE, is_gone=True)


def test_a_held_file_over_a_left_object_knows_of_it() -> None:
    etag = HeldName("a" * 32, ("n1", "n2")).etag
    shown = Changes([Entry("p", Kind.FILE, 1, etag)])
    for left in ({"p"}, set[str]()):
        found = effects(shown, lambda _: None, lambda _: None, lambda _: None, 1, is_left=left.__contains__)
        assert [row.leaves_object for row in found.rows] == [bool(left)]
