"""A worker killed between showing a change and finishing it in the under store brings no data back from the dead."""

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import byteplane as bp
from api.byteplane import Op
from tests.builders.cache_cluster import LocalClient, WorkerRefused, wait_for
from tests.kills.failpoints import ArmedPlane

UID = "uid-bench-work"
DELETE = "understores.posix.PosixStore._delete: unlink"
UNLINK = "understores.posix.PosixStore._unlink: unlink"


class Place:
    """A dataset that is written, and the worker that will die."""

    def __init__(self, folder: Path) -> None:
        self.origin = folder / "work"
        self.origin.mkdir()
        self.plane = ArmedPlane(folder / "plane")

    def start(self, *points: str) -> LocalClient:
        """Start a worker that dies at one of the points, or none; return a connection."""
        self.plane.armed["worker"] = frozenset(points), 1
        self.plane.start("worker")
        return wait_for("a worker that answers", self._connected)

    def _connected(self) -> LocalClient | None:
        try:
            return LocalClient(self.plane.socket("n1"))
        except ConnectionRefusedError:
            return None  # bound, and not listening yet

    def dies(self, client: LocalClient, op: Op, meta: bp.Rename | bp.Remove) -> None:
        """Ask for a change that ends the worker."""
        with pytest.raises(OSError):
            client.call(op, meta, bp.Mutated)
        client.close()
        self.plane.last["worker"].popen.wait(20)
        assert "killed " in self.plane.record("worker").read_text()

    def listed(self) -> dict[str, str]:
        """List the under store anew; return the etags of what the namespace shows then."""
        self.plane.sync("work", f"file://{self.origin}", writable=True)
        return {path: entry.etag for path, entry in self.plane.entries(UID).items()}

    def read(self, client: LocalClient, path: str) -> bytes:
        return client.read(UID, self.plane.entries(UID)[path])[0]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    with made.plane:
        yield made


@pytest.mark.parametrize("is_taken", [False, True], ids=["onto nothing", "over a file"])
def test_the_old_name_of_a_renamed_file_stays_away(place: Place, is_taken: bool) -> None:
    client = place.start(UNLINK)
    place.listed()
    client.write(UID, "old", b"content")
    if is_taken:
        client.write(UID, "new", b"what was there")
    place.dies(client, Op.RENAME, bp.Rename(uid=UID, source="old", target="new"))
    assert (place.origin / "old").exists(), "the death came too late to show anything"
    assert set(place.listed()) == {"new"}, "a listing of the under store shows what was renamed"
    client = place.start()
    with pytest.raises(WorkerRefused) as refused:
        client.call(Op.RENAME, bp.Rename(uid=UID, source="old", target="new"), bp.Mutated)
    assert refused.value.errno == errno.ENOENT, "it was done"
    wait_for("the end of the old object", lambda: not (place.origin / "old").exists() or None)
    assert set(place.listed()) == {"new"} and place.read(client, "new") == b"content"
    # The name is like any other again, also for somebody who writes the same bytes into the under store.
    client.write(UID, "old", b"another")
    assert set(place.listed()) == {"new", "old"} and place.read(client, "old") == b"another"
    client.close()


def test_a_name_that_is_written_again_before_anybody_cleans_up_stays(place: Place) -> None:
    client = place.start(UNLINK)
    place.listed()
    client.write(UID, "old", b"content")
    place.dies(client, Op.RENAME, bp.Rename(uid=UID, source="old", target="new"))
    (place.origin / "old").unlink()
    (place.origin / "old").write_bytes(b"by somebody else")
    assert set(place.listed()) == {"new", "old"}
    client = place.start()
    assert place.read(client, "old") == b"by somebody else"
    client.close()


@pytest.mark.parametrize("point", [DELETE, f"{DELETE}, done"], ids=["before", "after"])
def test_a_removal_that_was_cut_off_is_done_when_it_is_asked_for_again(place: Place, point: str) -> None:
    client = place.start(point)
    place.listed()
    client.write(UID, "gone", b"content")
    place.dies(client, Op.REMOVE, bp.Remove(uid=UID, path="gone"))
    client = place.start()
    client.call(Op.REMOVE, bp.Remove(uid=UID, path="gone"), bp.Mutated)
    assert place.listed() == {} and not (place.origin / "gone").exists()
    client.close()
