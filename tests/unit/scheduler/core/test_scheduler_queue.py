"""The pools of scheduler/core/queue.py."""

from scheduler.core.queue import Pool, SchedulingQueue
from scheduler.core.requeue import ClusterChange


def _popped(queue: SchedulingQueue) -> str | None:
    waiting = queue.pop()
    return waiting.unit if waiting else None


def test_priority_first_then_waiting_time() -> None:
    queue = SchedulingQueue()
    queue.add("late", priority=0, since=2)
    queue.add("early", priority=0, since=1)
    queue.add("important", priority=9, since=3)
    assert [_popped(queue) for _ in range(4)] == ["important", "early", "late", None]


def test_pods_of_the_same_second_go_in_the_order_they_came() -> None:
    queue = SchedulingQueue()
    for unit in ("z", "a", "m"):
        queue.add(unit, priority=0, since=1)
    assert [_popped(queue) for _ in range(3)] == ["z", "a", "m"]


def test_a_refused_unit_does_not_block_the_next() -> None:
    queue = SchedulingQueue()
    queue.add("big", priority=9, since=0)
    queue.add("small", priority=0, since=0)
    assert _popped(queue) == "big"
    queue.refuse("big", ClusterChange.POD_FREED, 0)
    assert _popped(queue) == "small"
    assert _popped(queue) is None


def test_only_a_change_that_can_help_wakes_a_refused_unit() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.refuse("u", ClusterChange.POD_FREED | ClusterChange.NODE_ADDED, 0)
    assert queue.changed(ClusterChange.NODE_LABELS, 5) == 0
    assert queue.changed(ClusterChange.POD_FREED, 5) == 1
    assert queue.pool_of("u") is Pool.ACTIVE


def test_a_change_within_the_backoff_moves_it_to_backoff() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.refuse("u", ClusterChange.POD_FREED, 0)
    queue.changed(ClusterChange.POD_FREED, 0.5)
    assert queue.pool_of("u") is Pool.BACKOFF
    assert queue.next_due() == 1.0
    queue.advance(1.0)
    assert queue.pool_of("u") is Pool.ACTIVE


def test_backoff_doubles_up_to_its_cap() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    waits = []
    for _ in range(6):
        queue.advance(1000)
        queue.pop()
        queue.fail("u", 0)
        waits.append(queue.next_due())
    assert waits == [1, 2, 4, 8, 10, 10]


def test_an_idle_queue_takes_from_backoff_early_but_not_after_an_error() -> None:
    queue = SchedulingQueue()
    for unit in ("refused", "failed"):
        queue.add(unit, priority=0, since=0)
        queue.pop()
    queue.fail("failed", 0)
    queue.refuse("refused", ClusterChange.POD_FREED, 0)
    queue.changed(ClusterChange.POD_FREED, 0.1)
    assert _popped(queue) == "refused"
    assert _popped(queue) is None


def test_nobody_waits_longer_than_the_flush() -> None:
    queue = SchedulingQueue(flush_seconds=300)
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.refuse("u", ClusterChange(0), 0)
    queue.advance(299)
    assert queue.pool_of("u") is Pool.UNSCHEDULABLE
    queue.advance(300)
    assert queue.pool_of("u") is Pool.ACTIVE


def test_a_gated_unit_is_not_tried_until_it_is_added_again() -> None:
    queue = SchedulingQueue()
    queue.gate("u", priority=0, since=0)
    assert _popped(queue) is None
    assert queue.counts[Pool.GATED] == 1
    queue.add("u", priority=0, since=0)
    assert _popped(queue) == "u"


def test_a_unit_in_flight_stays_there() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.add("u", priority=1, since=0)
    assert _popped(queue) is None
    assert queue.pool_of("u") is Pool.IN_FLIGHT
    queue.remove("u")
    assert len(queue) == 0
    assert not any(queue.counts.values())
