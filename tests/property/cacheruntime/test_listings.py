"""When a Dataset is listed again, over whole histories: a store that takes its time and fails now and then, a clock
that moves in steps of any size, requests, and a controller that remembers nothing between two looks."""

import math
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api import names
from api.conditions import timestamp
from api.data_v1alpha1 import Dataset, DatasetStatus, MetadataSync
from api.gen import metadata_pb2 as pb
from cacheruntime.controller import dataset as plans
from cacheruntime.controller import listings
from cacheruntime.controller.listings import Listing, next_listing

BORN = 1_800_000_000.0
POLICIES = ("Once", "Interval", "OnJobStart", "Always")
INTERVAL_SECONDS = 60.0


def sync(policy: str, interval: str | None = "1m") -> MetadataSync:
    return MetadataSync.model_validate({"policy": policy, "interval": interval})


def an_info(**last: Any) -> pb.DatasetInfo:
    """Of a dataset whose listing went well from BORN - 3 to BORN, unless `last` says otherwise."""
    values = {"began_at_ns": BORN - 3, "ended_at_ns": BORN, "good_began_at_ns": BORN - 3, **last}
    numbers = {name: int(value * 1e9) if name.endswith("_ns") else value for name, value in values.items()}
    return pb.DatasetInfo(uid="u", snapshot_version=1, listing=pb.LastListing(**numbers))


@dataclass
class History:
    """A dataset in metadata, and every listing it had: (began, ended, went well)."""

    policy: MetadataSync
    now: float = BORN
    info: pb.DatasetInfo = field(default_factory=an_info)
    asked: float | None = None
    running: tuple[float, bool] | None = None
    listed: list[tuple[float, float, bool]] = field(default_factory=list)
    whys: list[str | None] = field(default_factory=list)

    def look(self, took: float, is_good: bool) -> Listing:
        """What a controller does that has just started; a listing begun now ends `took` later."""
        self._finish()
        chance = Random(f"u {self.info.listing.ended_at_ns}").random()
        listing = next_listing(self.policy, self.info, self.asked, chance)
        if listing.is_due(self.now):
            assert self.running is None, "listed while a listing runs"
            self.running, self.info.syncing = (self.now + took, is_good), True
            self.listed.append((self.now, self.now + took, is_good))
            self.whys.append(listing.why)
        return listing

    def _finish(self) -> None:
        if self.running is None or self.running[0] > self.now:
            return
        began, ended, is_good = self.listed[-1]
        self.running, self.info.syncing = None, False
        last = self.info.listing
        last.began_at_ns, last.ended_at_ns = int(began * 1e9), int(ended * 1e9)
        last.failures = 0 if is_good else last.failures + 1
        if is_good:
            last.good_began_at_ns = last.began_at_ns


steps = st.lists(
    st.tuples(
        st.floats(0.1, 40),  # until the next look
        st.floats(0, 30),  # seconds of a listing that begins now
        st.booleans(),  # it goes well
        st.integers(0, 19),  # 0: somebody asks
    ),
    min_size=1,
    max_size=120,
)


@given(steps, st.sampled_from(POLICIES))
def test_nothing_is_listed_twice_too_soon_or_left_out(walk: list[tuple[float, float, bool, int]], policy: str) -> None:
    history = History(sync(policy))
    for seconds, took, is_good, dice in walk:
        history.now += seconds
        if dice == 0:
            history.asked = math.floor(history.now) + 1
        before = len(history.listed)
        listing = history.look(took, is_good)
        # Looked at again in time, it begins: none is overdue after a look.
        assert len(history.listed) > before or listing.due is None or listing.due > history.now
    ends = [(BORN - 3, BORN, True), *history.listed]
    for (_, ended, was_good), (began, _, _), why in zip(ends, history.listed, history.whys, strict=False):
        assert began >= ended
        if was_good and why == "Interval":
            assert began - ended >= INTERVAL_SECONDS - 0.001
        if was_good and why == "Always":
            assert began - ended >= listings.ALWAYS_REST_SECONDS - 0.001
        assert (why == "retry") <= (not was_good)
    if policy in ("Once", "OnJobStart"):
        # By itself never again; a failed listing was itself asked for.
        assert set(history.whys) <= {"asked", "retry"}
        if history.asked is None:
            assert not history.listed


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True), st.sampled_from(POLICIES))
def test_pauses_after_failures_double_up_to_a_limit(failures: int, chance: float, policy: str) -> None:
    def pause(times: int) -> float:
        due = next_listing(sync(policy), an_info(failures=times), None, chance).due
        assert due is not None
        return due - BORN

    # Times since 1970 are good to a millionth of a second.
    assert 2 <= pause(1) <= 2.2 + 1e-6
    assert pause(failures) <= 132 + 1e-6
    longest = 120 * (1 + listings.JITTER * chance)
    assert pause(failures + 1) == pytest.approx(min(2 * pause(failures), longest), abs=1e-5)


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1e6))
def test_an_interval_is_never_shorter_and_a_tenth_longer_at_most(chance: float, later: float) -> None:
    listing = next_listing(sync("Interval", "1h30m"), an_info(), None, chance)
    assert listing.due is not None
    assert 5400 <= listing.due - BORN <= 5940
    rest = listing.rest_seconds(BORN + later)
    assert rest is not None and 0 <= rest <= listings.LONGEST_REST_SECONDS


def test_always_lists_at_most_half_of_the_time() -> None:
    slow = an_info(began_at_ns=BORN - 40, good_began_at_ns=BORN - 40)
    assert next_listing(sync("Always"), slow, None, 0.0).due == BORN + 40
    quick = an_info(began_at_ns=BORN - 0.1)
    assert next_listing(sync("Always"), quick, None, 0.0).due == BORN + listings.ALWAYS_REST_SECONDS


@pytest.mark.parametrize("policy", ["Once", "OnJobStart"])
def test_a_request_is_met_by_a_listing_that_began_no_earlier(policy: str) -> None:
    assert next_listing(sync(policy), an_info(), None, 0.5) == Listing()
    assert next_listing(sync(policy), an_info(), BORN - 3, 0.5) == Listing()
    assert next_listing(sync(policy), an_info(), BORN - 2, 0.5) == Listing(BORN - 2, "asked")
    under_way = an_info()
    under_way.syncing = True
    assert next_listing(sync(policy), under_way, BORN - 2, 0.5) == Listing()


def test_a_request_does_not_wait_for_the_pause_after_a_failure_and_is_tried_once_for_that() -> None:
    failed = an_info(failures=9)
    assert next_listing(sync("Once"), failed, BORN + 1, 0.0) == Listing(BORN + 1, "asked")
    assert next_listing(sync("Once"), failed, BORN - 1, 0.0) == Listing(BORN + 120, "retry")


def test_a_snapshot_of_before_listings_were_remembered_counts_from_its_time() -> None:
    old = pb.DatasetInfo(snapshot_version=4, synced_at_ns=int(BORN * 1e9))
    assert next_listing(sync("Interval"), old, None, 0.0) == Listing(BORN + 60, "Interval")
    assert next_listing(sync("Always"), pb.DatasetInfo(), None, 0.0) == Listing()


def test_an_interval_beyond_all_calendars_can_be_written_down() -> None:
    listing = next_listing(sync("Interval", "9999999999999999999h"), an_info(), None, 0.99)
    status = listings.sync_status(an_info(), listing)
    assert status is not None and status.next_at is not None and status.next_at < "2040"


def a_dataset(annotation: str | None = None, status: DatasetStatus | None = None) -> Dataset:
    annotations = {} if annotation is None else {names.DATASET_SYNC_ANNOTATION: annotation}
    item = Dataset.model_validate(
        {
            "metadata": {"name": "d", "namespace": "ns", "uid": "u", "annotations": annotations},
            "spec": {"mounts": [{"mountPoint": "file:///d", "name": "d"}]},
        }
    )
    item.status = status
    return item


def test_a_request_is_an_annotation_with_a_time() -> None:
    assert listings.asked_at(a_dataset()) is None
    assert listings.asked_at(a_dataset(timestamp(BORN))) == BORN
    with pytest.raises(ValueError, match="sync-requested-at is 'now'; it must be a time like"):
        listings.asked_at(a_dataset("now"))


def test_the_status_tells_of_the_last_listing_and_the_next() -> None:
    info = an_info(added=3, changed=2, removed=1)
    status = plans.status(a_dataset(), info, Listing(BORN + 60.9, "Interval"), 0, BORN)
    assert status.metadata_sync is not None
    assert status.metadata_sync.to_wire() == {
        "listedAt": timestamp(BORN - 3),
        "added": 3,
        "changed": 2,
        "removed": 1,
        "triedAt": timestamp(BORN),
        "failures": 0,
        "nextAt": timestamp(BORN + 60),
    }
    synced = status.conditions[-1]
    assert (synced.type, synced.status, synced.message) == ("Synced", "True", "3 files added, 2 changed, 1 removed")


def test_a_failure_is_told_once_each_time_and_the_snapshot_stays() -> None:
    info = an_info(failures=1)
    info.error, info.error_reason = "no bucket b.", "BucketNotFound"
    status = plans.status(a_dataset(), info, Listing(), 0, BORN)
    synced = status.conditions[-1]
    assert (synced.status, synced.reason) == ("False", "BucketNotFound")
    assert synced.message == "no bucket b.; snapshot 1 stays in use; failed 1 times in a row"
    assert listings.is_new_failure(None, status.metadata_sync)
    assert not listings.is_new_failure(status, status.metadata_sync)
    again = listings.sync_status(an_info(failures=2, ended_at_ns=BORN + 5), Listing())
    assert listings.is_new_failure(status, again)
    assert not listings.is_new_failure(status, listings.sync_status(an_info(), Listing()))
    assert listings.sync_status(pb.DatasetInfo(), Listing()) is None
