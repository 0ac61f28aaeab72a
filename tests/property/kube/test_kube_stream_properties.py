"""Properties of following a kind: any cutting of the bytes, any history of the objects."""

from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from kube.decoding import LineSplitter
from kube.objects import Pod
from kube.store import Store
from kube.watch import Change, ChangeKind, Changes, Listed, WatchDecoder

Item = dict[str, Any]
Key = tuple[str, str]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    borders = sorted({min(place, len(data)) for place in places} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(borders)]


@given(
    st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    st.lists(st.integers(0, 700)),
)
def test_lines_are_the_same_however_the_stream_is_cut(lines: list[bytes], places: list[int]) -> None:
    data = b"".join(line + b"\n" for line in lines) + b"unfinished"
    splitter = LineSplitter()
    blocks = [splitter.feed(chunk) for chunk in cut(data, places)]
    assert b"".join(blocks) + b"unfinished" == data
    assert all(block == b"" or block.endswith(b"\n") for block in blocks)
    assert splitter.held_bytes == len(b"unfinished")


@given(
    st.lists(
        st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.text(max_size=8)), max_size=12
    ),
    st.lists(st.integers(0, 1500), max_size=30),
)
def test_changes_are_the_same_however_the_stream_is_cut(events: list[tuple[str, str]], places: list[int]) -> None:
    data = b"".join(
        msgspec.json.encode({"type": kind, "object": {"metadata": {"name": name, "resourceVersion": str(version)}}})
        + b"\n"
        for version, (kind, name) in enumerate(events, 1)
    )
    decoder: WatchDecoder[Pod] = WatchDecoder(Pod, "pods", "0")
    seen = []
    for chunk in cut(data, places):
        changes, error = decoder.feed(chunk)
        assert error is None
        seen += [(str(change.kind), change.object.metadata.name) for change in changes]
    assert seen == [event for event in events if event[0] != "BOOKMARK"]
    assert decoder.resource_version == str(len(events))


names = st.sampled_from(["a", "b", "c", "d"])
uids = st.sampled_from(["u1", "u2"])


@st.composite
def histories(draw: st.DrawFn) -> list[Listed[Item] | Changes[Item]]:
    """Batches as a server could send them: a true history, with lists, repeats and missed parts."""
    truth: dict[str, Item] = {}
    past: list[Change[Item]] = []
    batches: list[Listed[Item] | Changes[Item]] = [Listed([], "0")]
    version = 0
    for _ in range(draw(st.integers(0, 15))):
        events: list[Change[Item]] = []
        for _ in range(draw(st.integers(1, 3))):
            version += 1
            name = draw(names)
            meta = {"name": name, "uid": draw(uids), "resourceVersion": str(version)}
            held = truth.get(name)
            if held is None:
                truth[name] = {"metadata": meta}
                events.append(Change(ChangeKind.ADDED, truth[name]))
            elif draw(st.booleans()):
                truth[name] = {"metadata": meta | {"uid": held["metadata"]["uid"]}}
                events.append(Change(ChangeKind.MODIFIED, truth[name]))
            else:
                del truth[name]
                events.append(Change(ChangeKind.DELETED, {"metadata": meta | {"uid": held["metadata"]["uid"]}}))
        how = draw(st.sampled_from(["changes", "with repeats", "missed, then listed"]))
        if how == "changes":
            batches.append(Changes(events))
        elif how == "with repeats":
            # A reconnect from an older position sends the tail of the history again, in order.
            repeated = past[len(past) - draw(st.integers(0, min(4, len(past)))) :]
            batches.append(Changes([*repeated, *events]))
        else:
            batches.append(Listed(list(truth.values()), str(version)))
        past += events
    batches.append(Listed(list(truth.values()), str(version)))
    return batches


def keyed(items: Any) -> dict[str, tuple[str, str]]:
    return {item["metadata"]["name"]: (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) for item in items}


@settings(max_examples=150)
@given(histories())
def test_the_changes_handed_out_add_up_to_the_store_and_the_store_to_each_list(
    batches: list[Listed[Item] | Changes[Item]],
) -> None:
    store: Store[Item] = Store()
    follower: dict[str, Item] = {}
    for batch in batches:
        for change in store.apply(batch):
            name, uid = change.object["metadata"]["name"], change.object["metadata"]["uid"]
            if change.kind is ChangeKind.ADDED:
                assert name not in follower
                follower[name] = change.object
            elif change.kind is ChangeKind.MODIFIED:
                assert follower[name]["metadata"]["uid"] == uid
                follower[name] = change.object
            else:
                assert follower.pop(name)["metadata"]["uid"] == uid
        assert keyed(follower.values()) == keyed(store)
        if isinstance(batch, Listed):
            assert keyed(store) == keyed(batch.objects)
