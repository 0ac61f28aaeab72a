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


def test_backoff_ends_with_whole_windows_and_priority_orders_what_ends_together() -> None:
    queue = SchedulingQueue()
    for unit, priority, at in (("low", 0, 0.2), ("high", 9, 0.9)):
        queue.add(unit, priority=priority, since=0)
        queue.pop()
        queue.refuse(unit, ClusterChange.POD_FREED, at)
    queue.changed(ClusterChange.POD_FREED, 1.0)
    assert queue.next_due() == 2.0
    assert [_popped(queue) for _ in range(2)] == ["high", "low"]


def test_units_in_error_backoff_do_not_hide_one_that_may_go_early() -> None:
    queue = SchedulingQueue()
    for unit in (*(f"failed-{index}" for index in range(50)), "refused"):
        queue.add(unit, priority=0, since=0)
        queue.pop()
        if unit == "refused":
            queue.refuse(unit, ClusterChange.POD_FREED, 5)
        else:
            queue.fail(unit, 0)
    queue.changed(ClusterChange.POD_FREED, 5)
    assert queue.has_work
    assert _popped(queue) == "refused"
    assert not queue.has_work


def test_a_change_while_in_flight_is_not_lost() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.changed(ClusterChange.POD_FREED, 0)
    queue.pop()
    queue.changed(ClusterChange.NODE_ADDED, 1)
    queue.refuse("u", ClusterChange.POD_FREED, 2)
    assert queue.pool_of("u") is Pool.UNSCHEDULABLE
    queue.changed(ClusterChange.POD_FREED, 20)
    queue.pop()
    queue.changed(ClusterChange.POD_FREED, 21)
    queue.refuse("u", ClusterChange.POD_FREED, 22)
    assert queue.pool_of("u") is Pool.BACKOFF


def test_a_unit_that_was_added_again_while_in_flight_is_tried_again() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.add("u", priority=0, since=0)
    queue.refuse("u", ClusterChange.POD_FREED, 0)
    assert queue.pool_of("u") is Pool.BACKOFF


def test_a_hint_is_asked_once_for_all_units_that_wait_alike() -> None:
    queue = SchedulingQueue()
    for unit, hint in (("a1", "a"), ("a2", "a"), ("b", "b"), ("any", None)):
        queue.add(unit, priority=0, since=0)
        queue.pop()
        queue.refuse(unit, ClusterChange.POD_FREED | ClusterChange.NODE_ADDED, 0, hint=hint)
    asked: list[tuple[ClusterChange, object]] = []

    def may_help(change: ClusterChange, hint: object) -> bool:
        asked.append((change, hint))
        return hint == "b"

    assert queue.changed(ClusterChange.POD_FREED, 100, may_help) == 2
    assert asked == [(ClusterChange.POD_FREED, "a"), (ClusterChange.POD_FREED, "b")]
    assert [queue.pool_of(unit) for unit in ("a1", "a2", "b", "any")] == [
        Pool.UNSCHEDULABLE,
        Pool.UNSCHEDULABLE,
        Pool.ACTIVE,
        Pool.ACTIVE,
    ]


def test_activation_does_not_wait_for_backoff_but_leaves_gated_units() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.refuse("u", ClusterChange.POD_FREED, 0)
    queue.gate("gated", priority=0, since=0)
    for unit in ("u", "gated", "unknown"):
        queue.activate(unit)
    assert _popped(queue) == "u"
    assert queue.pool_of("gated") is Pool.GATED


def test_figures_of_what_came_in_and_who_refused() -> None:
    queue = SchedulingQueue()
    queue.add("u", priority=0, since=0)
    queue.pop()
    queue.refuse("u", ClusterChange.POD_FREED, 0, rejected_by=("NodeResourcesFit", "NodePorts"))
    assert +queue.rejected == {"NodeResourcesFit": 1, "NodePorts": 1}
    queue.changed(ClusterChange.POD_FREED, 0.5)
    queue.advance(1)
    assert queue.incoming == {
        (Pool.ACTIVE, "UnschedulablePodAdd"): 1,
        (Pool.UNSCHEDULABLE, "ScheduleAttemptFailure"): 1,
        (Pool.BACKOFF, "AssignedPodDelete"): 1,
        (Pool.ACTIVE, "BackoffComplete"): 1,
    }
    queue.pop()
    assert not +queue.rejected
