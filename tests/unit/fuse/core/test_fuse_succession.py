"""Who serves a mount, in histories of daemons that die, hang, crash and leave."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fuse.core.succession import (
    BEAT_SECONDS,
    CRASHES_MAX,
    DEATHS_MAX,
    LEFT_STATUS,
    STOPPED_SECONDS,
    Action,
    Finish,
    Go,
    Kill,
    Leave,
    Reason,
    Spawn,
    Stop,
    Succession,
)


class _Mount:
    """Plays the keeper: numbers children, keeps what was asked."""

    def __init__(self, *, has_standby: bool = True) -> None:
        self.succession = Succession(5.0, has_standby=has_standby)
        self.now = 100.0
        self.children = 0
        self.actions: list[Action] = []
        self.do(self.succession.begin())

    def do(self, actions: list[Action]) -> list[Action]:
        for action in actions:
            self.actions.append(action)
            if isinstance(action, Spawn):
                self.children += 1
                self.do(self.succession.spawned(self.children, self.now))
        return actions

    def serve(self, child: int) -> list[Action]:
        actions = self.do(self.succession.warm(child, self.now))
        self.do(self.succession.serving(child, self.now))
        return actions

    def take(self, kind: type[Action]) -> list[Action]:
        found = [action for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found


def _serving() -> _Mount:
    """A mount that child 1 serves and child 2 waits for."""
    mount = _Mount()
    assert mount.serve(1) == [Go(1, Reason.FIRST, refuses_resent=False)]
    mount.do(mount.succession.warm(2, mount.now))
    assert mount.children == 2
    mount.actions.clear()
    return mount


def test_a_killed_daemon_is_followed_at_once_and_another_waits() -> None:
    mount = _serving()
    assert mount.do(mount.succession.died(1, -9, mount.now)) == [Go(2, Reason.KILLED, refuses_resent=False)]
    assert mount.do(mount.succession.serving(2, mount.now)) == [Spawn()]


def test_without_a_standby_the_next_one_is_started_first() -> None:
    mount = _Mount(has_standby=False)
    mount.serve(1)
    assert mount.children == 1
    assert mount.do(mount.succession.died(1, -9, mount.now)) == [Spawn()]
    assert mount.do(mount.succession.warm(2, mount.now)) == [Go(2, Reason.KILLED, refuses_resent=False)]


def test_a_stopped_daemon_is_killed_but_not_one_that_goes_on_soon() -> None:
    mount = _serving()
    mount.succession.stopped(1, mount.now)
    mount.now += STOPPED_SECONDS / 2
    assert mount.succession.tick(mount.now) == []
    mount.succession.continued(1, mount.now)
    mount.now += STOPPED_SECONDS
    assert mount.succession.tick(mount.now) == []
    mount.succession.stopped(1, mount.now)
    mount.now += STOPPED_SECONDS
    assert mount.succession.tick(mount.now) == [Kill(1)]
    assert mount.succession.tick(mount.now) == [], "once"
    assert mount.succession.died(1, -9, mount.now) == [Go(2, Reason.STOPPED, refuses_resent=False)]


def test_a_daemon_that_says_nothing_is_killed() -> None:
    mount = _serving()
    mount.now += 4.9
    assert mount.succession.tick(mount.now) == []
    assert mount.succession.silent(mount.now) == [1], "it is looked whether it is dead"
    mount.succession.beat(1, mount.now)
    assert mount.succession.silent(mount.now) == []
    mount.now += 5.0
    assert mount.succession.tick(mount.now) == [Kill(1)]
    assert mount.succession.died(1, -9, mount.now) == [Go(2, Reason.HUNG, refuses_resent=False)]


def test_nobody_is_silent_whom_a_stopped_keeper_did_not_hear() -> None:
    mount = _serving()
    mount.now += 100.0
    mount.succession.looked_away(mount.now)
    assert mount.succession.silent(mount.now) == []
    assert mount.succession.tick(mount.now) == []
    mount.now += 5.0
    assert mount.succession.tick(mount.now) == [Kill(1)]


def test_a_dead_daemon_that_is_not_reaped_is_looked_at_within_half_a_second() -> None:
    """Nobody is told of one with a thread that waits in the kernel; its requests shall wait for a second at most."""
    mount = _serving()
    mount.succession.beat(1, mount.now)
    last_beat = mount.now
    while not mount.succession.silent(mount.now):
        mount.now += mount.succession.next_tick_seconds()
    assert mount.now - last_beat <= 0.5
    assert mount.now - last_beat > 2 * BEAT_SECONDS, "a beat that is a little late is nothing to look at"


def test_an_unmount_from_outside_and_a_stop_end_the_keeper() -> None:
    mount = _serving()
    assert mount.succession.died(1, 0, mount.now) == [Finish(0, "unmounted from outside")]
    mount = _serving()
    assert mount.succession.terminate(mount.now) == [Stop(1)]
    assert mount.succession.terminate(mount.now) == []
    assert mount.succession.died(1, -9, mount.now) == [Finish(0, "told to stop")]
    mount = _serving()
    mount.succession.terminate(mount.now)
    mount.now += 20.0
    assert mount.succession.tick(mount.now) == [Kill(1)], "it drains for ever"


def test_an_upgrade_serves_by_a_daemon_that_was_started_after_it_was_asked_for() -> None:
    mount = _serving()
    assert mount.do(mount.succession.hangup(mount.now)) == [Spawn()]
    assert mount.do(mount.succession.warm(3, mount.now)) == [Kill(2), Leave(1)]
    assert mount.do(mount.succession.died(2, -9, mount.now)) == []
    assert mount.do(mount.succession.died(1, LEFT_STATUS, mount.now)) == [Go(3, Reason.UPGRADED, refuses_resent=False)]
    assert mount.do(mount.succession.serving(3, mount.now)) == [Spawn()]
    assert mount.do(mount.succession.warm(4, mount.now)) == [], "the upgrade is over"


def test_a_death_while_an_upgrade_loads_is_followed_at_once() -> None:
    """By what waited before; the upgrade goes on."""
    mount = _serving()
    mount.do(mount.succession.hangup(mount.now))
    assert mount.do(mount.succession.died(1, -9, mount.now)) == [Go(2, Reason.KILLED, refuses_resent=False)]
    assert mount.do(mount.succession.serving(2, mount.now)) == [], "one of the new version is being made"
    assert mount.do(mount.succession.warm(3, mount.now)) == [Leave(2)]
    assert mount.do(mount.succession.died(2, LEFT_STATUS, mount.now)) == [Go(3, Reason.UPGRADED, refuses_resent=False)]
    assert mount.do(mount.succession.serving(3, mount.now)) == [Spawn()]


def test_what_waited_before_an_upgrade_ends_when_the_new_one_goes_without_it() -> None:
    mount = _Mount()
    mount.serve(1)
    mount.do(mount.succession.hangup(mount.now))
    assert mount.do(mount.succession.died(1, -9, mount.now)) == [], "neither is warm"
    assert mount.do(mount.succession.warm(3, mount.now)) == [Go(3, Reason.KILLED, refuses_resent=False), Kill(2)]
    assert mount.do(mount.succession.died(2, -9, mount.now)) == [Spawn()]


def test_a_daemon_that_does_not_leave_is_killed() -> None:
    mount = _serving()
    mount.do(mount.succession.hangup(mount.now))
    mount.do(mount.succession.warm(3, mount.now))
    mount.do(mount.succession.died(2, -9, mount.now))
    mount.now += 3.0
    mount.succession.beat(1, mount.now)
    assert mount.succession.tick(mount.now) == [Kill(1)]
    assert mount.do(mount.succession.died(1, -9, mount.now)) == [Go(3, Reason.UPGRADED, refuses_resent=False)]


def test_a_request_that_ends_daemon_after_daemon_is_refused() -> None:
    mount = _serving()
    child = 1
    refused = []
    for _ in range(CRASHES_MAX):
        actions = mount.do(mount.succession.died(child, -11, mount.now + 0.1))
        child = next(action.child for action in actions if isinstance(action, Go))
        refused += [action.refuses_resent for action in actions if isinstance(action, Go)]
        mount.do(mount.succession.serving(child, mount.now))
        mount.do(mount.succession.warm(mount.children, mount.now))
    assert refused == [False, False, True]


def test_daemons_that_never_serve_end_the_keeper_and_not_at_once() -> None:
    mount = _Mount()
    for child in range(1, DEATHS_MAX):
        assert mount.do(mount.succession.died(child, 1, mount.now)) == [Spawn()]
    (finish,) = mount.do(mount.succession.died(DEATHS_MAX, 1, mount.now))
    assert isinstance(finish, Finish) and finish.status == 1


def test_waiting_daemons_that_die_are_started_again_later_and_later() -> None:
    mount = _serving()
    pauses = []
    child = 2
    mount.do(mount.succession.died(child, -9, mount.now))
    for _ in range(4):
        child = mount.children
        before = mount.now
        assert mount.do(mount.succession.died(child, 1, mount.now)) == []
        while not mount.do([each for each in mount.succession.tick(mount.now) if isinstance(each, Spawn)]):
            mount.now += 0.05
            mount.succession.beat(1, mount.now)
        pauses.append(mount.now - before)
    assert pauses == sorted(pauses) and pauses[-1] > 4 * pauses[0]


class Histories(RuleBasedStateMachine):
    """Any order of what can happen to the daemons."""

    def __init__(self) -> None:
        super().__init__()
        self.mount = _Mount()
        self.waits: set[int] = set()
        self.known = 0
        self.warm: set[int] = set()
        self.active: int | None = None
        self.is_over = False
        self._see()

    def _see(self) -> None:
        for action in self.mount.actions:
            if isinstance(action, Go):
                assert self.active is None, "two serve"
                assert action.child in self.warm
                self.active = action.child
                self.warm.discard(action.child)
            elif isinstance(action, Finish):
                self.is_over = True
        self.mount.actions.clear()
        self.waits |= set(range(self.known + 1, self.mount.children + 1))
        self.known = self.mount.children

    @precondition(lambda self: self.waits and not self.is_over)
    @rule(data=st.data())
    def become_warm(self, data: st.DataObject) -> None:
        child = data.draw(st.sampled_from(sorted(self.waits)))
        self.waits.discard(child)
        self.warm.add(child)
        self.mount.do(self.mount.succession.warm(child, self.mount.now))
        self._see()

    @precondition(lambda self: self.active and not self.is_over)
    @rule()
    def serve(self) -> None:
        assert self.active is not None
        self.mount.do(self.mount.succession.serving(self.active, self.mount.now))
        self._see()

    @precondition(lambda self: (self.waits or self.warm or self.active) and not self.is_over)
    @rule(data=st.data(), status=st.sampled_from([-9, -11, 1, LEFT_STATUS]))
    def die(self, data: st.DataObject, status: int) -> None:
        everybody = self.waits | self.warm | ({self.active} if self.active else set())
        child = data.draw(st.sampled_from(sorted(everybody)))
        self.waits.discard(child)
        self.warm.discard(child)
        if child == self.active:
            self.active = None
        self.mount.do(self.mount.succession.died(child, status, self.mount.now))
        self._see()

    @precondition(lambda self: not self.is_over)
    @rule()
    def hang_up(self) -> None:
        self.mount.do(self.mount.succession.hangup(self.mount.now))
        self._see()

    @rule(seconds=st.floats(0.1, 70))
    def wait(self, seconds: float) -> None:
        if self.is_over:
            return
        self.mount.now += seconds
        self.mount.do(self.mount.succession.tick(self.mount.now))
        self._see()

    @invariant()
    def somebody_serves_or_will(self) -> None:
        assert self.is_over or self.active or self.waits or self.warm


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)
