"""The keyed copy of a kind: kube/store.py."""

from typing import Any

from kube.store import Store
from kube.watch import Change, ChangeKind, Changes, Listed

Item = dict[str, Any]


def item(name: str, version: int, uid: str = "u") -> Item:
    return {"metadata": {"name": name, "namespace": "ns", "uid": uid, "resourceVersion": str(version)}}


def changes(*pairs: tuple[str, Item]) -> Changes[Item]:
    return Changes([Change(ChangeKind(kind), thing) for kind, thing in pairs])


def seen(result: list[Change[Item]]) -> list[tuple[str, str, str]]:
    return [
        (str(change.kind), change.object["metadata"]["name"], change.object["metadata"]["resourceVersion"])
        for change in result
    ]


def test_a_relist_makes_up_the_deletes_that_were_missed() -> None:
    store: Store[Item] = Store()
    synced = [store.is_synced]
    store.apply(Listed([item("a", 1), item("b", 2), item("c", 3)], "3"))
    assert [*synced, store.is_synced] == [False, True]
    result = store.apply(Listed([item("b", 2), item("c", 9), item("d", 8)], "9"))
    assert seen(result) == [("DELETED", "a", "1"), ("MODIFIED", "c", "9"), ("ADDED", "d", "8")]
    assert store.get("ns", "a") is None
    assert len(store) == 3


def test_a_new_uid_under_an_old_name_is_a_delete_and_an_add() -> None:
    store: Store[Item] = Store()
    store.apply(Listed([item("a", 1, "old")], "1"))
    assert seen(store.apply(Listed([item("a", 5, "new")], "5"))) == [("DELETED", "a", "1"), ("ADDED", "a", "5")]
    assert seen(store.apply(changes(("MODIFIED", item("a", 7, "newer"))))) == [
        ("DELETED", "a", "5"),
        ("ADDED", "a", "7"),
    ]


def test_repeats_and_older_states_change_nothing() -> None:
    store: Store[Item] = Store()
    store.apply(Listed([item("a", 10)], "10"))
    assert store.apply(changes(("ADDED", item("a", 10)), ("MODIFIED", item("a", 9)), ("DELETED", item("a", 8)))) == []
    assert seen(store.apply(changes(("MODIFIED", item("a", 11))))) == [("MODIFIED", "a", "11")]


def test_versions_are_compared_as_numbers() -> None:
    store: Store[Item] = Store()
    store.apply(Listed([item("a", 99)], "99"))
    assert seen(store.apply(changes(("MODIFIED", item("a", 100))))) == [("MODIFIED", "a", "100")]


def test_a_late_delete_of_the_old_uid_leaves_the_new_object() -> None:
    store: Store[Item] = Store()
    store.apply(Listed([item("a", 5, "new")], "5"))
    assert store.apply(changes(("DELETED", item("a", 6, "old")))) == []
    assert ("ns", "a") in store


def test_a_list_is_believed_even_when_its_versions_are_smaller() -> None:
    # After a restore of etcd from a backup versions go backwards; the list is the truth.
    store: Store[Item] = Store()
    store.apply(Listed([item("a", 50)], "50"))
    assert seen(store.apply(Listed([item("a", 3)], "4"))) == [("MODIFIED", "a", "3")]


def test_deleting_what_is_unknown_is_nothing() -> None:
    store: Store[Item] = Store()
    assert store.apply(changes(("DELETED", item("a", 1)))) == []
    assert list(store) == []
