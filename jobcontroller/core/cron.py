"""One decision about one CronTrainingJob: which job is due, which are deleted, and what its status says.

Owns the rules; Kubernetes' CronJob's wherever it has one. Of all times that came due and are not settled only the
newest counts. A time is settled when a job was made for it, when it is later than `startingDeadlineSeconds` allows, or
when the API server refuses the job for good. While `suspend` is true nothing is made and nothing settled.

Invariants: deterministic; a job's name tells its time, so that deciding again after a crash makes none twice; at most
one job is made in a decision; with Forbid and Replace none is made while another one has not ended, being deleted
included: two runs may not write one checkpoint directory at a time. Unlike a TrainingJob's plan, actions come before
the status: a time is settled once its job is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from api import cron, names
from api.conditions import Condition, find_condition, parse_timestamp, set_condition, timestamp
from api.cron_v1alpha1 import READY, CronTrainingJob, CronTrainingJobStatus, RunRecord
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core import reasons
from jobcontroller.core.actions import EmitEvent
from jobcontroller.core.observed import Problem

#: a job's name may have 63 characters; "-" and the minutes since 1970 go behind the CronTrainingJob's
MAX_NAME_CHARACTERS = 52
MAX_ACTIVE_SHOWN = 128


@dataclass(frozen=True, slots=True)
class Run:
    """One job of the CronTrainingJob, as last seen; times are seconds since 1970."""

    name: str
    uid: str
    created_at: float
    #: Succeeded or Failed; "" = it has not ended
    state: str = ""
    finished_at: float | None = None
    is_being_deleted: bool = False


@dataclass(frozen=True, slots=True)
class CreateRun:
    """Create this job; it is fine if it is there."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeleteRun:
    """Delete the job with this uid; `with_pods` = it is gone only when its pods are."""

    name: str
    uid: str
    with_pods: bool


@dataclass(frozen=True, slots=True)
class CronPlan:
    """What to do, then what to store; `status` None = leave it alone. Events follow."""

    status: CronTrainingJobStatus | None = None
    creation: CreateRun | None = None
    deletions: tuple[DeleteRun, ...] = ()
    events: tuple[EmitEvent, ...] = ()
    wake_after_seconds: float | None = None


@dataclass(slots=True)
class _Draft:
    """The plan under construction."""

    one: CronTrainingJob
    now: float
    status: CronTrainingJobStatus
    creation: CreateRun | None = None
    deletions: list[DeleteRun] = field(default_factory=list)
    events: list[EmitEvent] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)

    def say(self, is_ready: bool, reason: str, message: str) -> bool:
        """Set condition Ready; whether that is news."""
        old = find_condition(self.status.conditions, READY)
        condition = Condition(
            type=READY,
            status="True" if is_ready else "False",
            reason=reason,
            message=message,
            observed_generation=self.one.metadata.generation,
        )
        self.status.conditions = set_condition(self.status.conditions, condition, self.now)
        return old is None or (old.reason, old.message) != (reason, message)

    def warn(self, reason: str, message: str) -> None:
        """Set condition Ready to false, and tell it once."""
        if self.say(False, reason, message):
            self.events.append(EmitEvent(reason, message, "Warning"))

    def plan(self) -> CronPlan:
        self.status.observed_generation = self.one.metadata.generation
        old = self.one.status
        is_changed = old is None or old.to_wire() != self.status.to_wire()
        return CronPlan(
            self.status if is_changed else None,
            self.creation,
            tuple(self.deletions),
            tuple(self.events),
            min((max(0.0, at - self.now) for at in self.wakes), default=None),
        )


def decide(one: CronTrainingJob, runs: Sequence[Run], now: float, refusal: Problem | None = None) -> CronPlan:
    """Return what is to be done at `now`; `refusal` = why the job this decision would make was just refused."""
    if one.metadata.deletion_timestamp is not None:
        return CronPlan()
    draft = _Draft(one, now, one.status.model_copy(deep=True) if one.status else CronTrainingJobStatus())
    _count(draft, runs)
    try:
        schedule, deadline = _read(one)
    except cron.CronError as error:
        draft.status.next_schedule_time = None
        draft.warn(reasons.INVALID_SPEC, str(error))
        return draft.plan()
    coming = schedule.next_after(now)
    if coming is not None and deadline is not None and coming > deadline:
        coming = None
    draft.status.next_schedule_time = timestamp(coming) if coming is not None and not one.spec.suspend else None
    if one.spec.suspend:
        draft.say(False, reasons.CRON_SUSPENDED, "no job is made; set spec.suspend to false to go on")
        return draft.plan()
    draft.wakes += [coming] if coming is not None else []
    due = schedule.last_until(min(now, deadline) if deadline is not None else now)
    is_waiting = due is not None and due > _settled_until(draft) and not _settle(draft, runs, due, refusal)
    if not is_waiting:
        _say_what_comes(draft, coming)
    return draft.plan()


def run_name(one: CronTrainingJob, due: float) -> str:
    """Return the name of the job for that time."""
    return f"{one.metadata.name}-{int(due) // 60}"


def _read(one: CronTrainingJob) -> tuple[cron.Schedule, float | None]:
    if len(one.metadata.name) > MAX_NAME_CHARACTERS or "." in one.metadata.name or not one.metadata.name[:1].isalpha():
        raise cron.CronError(
            f"metadata.name {one.metadata.name!r} cannot begin its jobs' names: use at most {MAX_NAME_CHARACTERS} "
            "lower-case letters, digits and '-', beginning with a letter"
        )
    try:
        schedule = cron.parse(one.spec.schedule, one.spec.time_zone)
    except cron.CronError as error:
        raise cron.CronError(f"spec.{error}") from error
    if one.spec.deadline is None:
        return schedule, None
    wrong = f"spec.deadline {one.spec.deadline!r} must be a time with its zone, as 2030-12-31T00:00:00Z"
    try:
        # Without a zone it would be read in the controller's own.
        has_zone = datetime.fromisoformat(one.spec.deadline.replace("Z", "+00:00")).tzinfo is not None
    except ValueError as error:
        raise cron.CronError(wrong) from error
    if not has_zone:
        raise cron.CronError(wrong)
    return schedule, parse_timestamp(one.spec.deadline)


def _count(draft: _Draft, runs: Sequence[Run]) -> None:
    """Write down what runs and what has ended, and let go what is beyond the history."""
    status = draft.status
    there = [run for run in runs if not run.is_being_deleted]
    # Two of one second: the name tells the time a job was made for.
    ended = sorted((run for run in there if run.state), key=lambda run: (run.created_at, run.name), reverse=True)
    active = sorted(run.name for run in there if not run.state)
    for run in ended:
        if run.name in status.active:
            kind: Any = "Normal" if run.state == "Succeeded" else "Warning"
            draft.events.append(EmitEvent(reasons.RUN_ENDED, f"TrainingJob {run.name}: {run.state}", kind))
    status.active = active[:MAX_ACTIVE_SHOWN]
    kept, beyond = _history(draft.one, ended)
    status.history = [
        RunRecord(
            name=run.name,
            state="Succeeded" if run.state == "Succeeded" else "Failed",
            created=timestamp(run.created_at),
            finished=timestamp(run.finished_at) if run.finished_at is not None else None,
        )
        for run in kept
    ]
    draft.deletions += [DeleteRun(run.name, run.uid, with_pods=False) for run in beyond]
    well = [run.finished_at for run in ended if run.state == "Succeeded" and run.finished_at is not None]
    known = [parse_timestamp(status.last_successful_time)] if status.last_successful_time else []
    status.last_successful_time = timestamp(max(well + known)) if well or known else None


def _history(one: CronTrainingJob, newest_first: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Split jobs that have ended in those to keep and those beyond the limit of their kind."""
    left = {True: one.spec.successful_jobs_history_limit, False: one.spec.failed_jobs_history_limit}
    kept: list[Run] = []
    beyond: list[Run] = []
    for run in newest_first:
        has_succeeded = run.state == "Succeeded"
        (kept if left[has_succeeded] > 0 else beyond).append(run)
        left[has_succeeded] -= 1
    return kept, beyond


def _settled_until(draft: _Draft) -> float:
    since = draft.status.decided_time or draft.one.metadata.creation_timestamp
    return parse_timestamp(since) if since else draft.now


def _settle(draft: _Draft, runs: Sequence[Run], due: float, refusal: Problem | None) -> bool:
    """Deal with a time that has come; False = it has to wait, and condition Ready says for what."""
    spec, name = draft.one.spec, run_name(draft.one, due)
    if any(run.name == name for run in runs):
        # It was made, and the status could not be stored.
        draft.status.last_schedule_time = draft.status.decided_time = timestamp(due)
        return True
    if spec.starting_deadline_seconds is not None:
        too_late_at = due + spec.starting_deadline_seconds
        if draft.now > too_late_at:
            text = (
                f"no job is made for {timestamp(due)}: it is {draft.now - due:.0f} s late and "
                f"spec.startingDeadlineSeconds is {spec.starting_deadline_seconds}"
            )
            draft.events.append(EmitEvent(reasons.MISSED_SCHEDULE, text, "Warning"))
            draft.status.decided_time = timestamp(due)
            return True
        draft.wakes.append(too_late_at + 1)
    running = sorted((run for run in runs if not run.state), key=lambda run: run.name)
    if running and spec.concurrency_policy != "Allow":
        _wait_for(draft, running, due)
        return False
    if refusal is not None:
        draft.warn(reasons.RUN_REFUSED, refusal.message)
        if refusal.is_permanent:
            draft.status.decided_time = timestamp(due)
        else:
            draft.wakes.append(refusal.retry_at)
        return False
    draft.creation = CreateRun(name, _body(draft.one, name, due))
    draft.status.active = sorted([*draft.status.active, name])[:MAX_ACTIVE_SHOWN]
    draft.status.last_schedule_time = draft.status.decided_time = timestamp(due)
    draft.events.append(EmitEvent(reasons.RUN_CREATED, f"TrainingJob {name} was made for {timestamp(due)}"))
    return True


def _wait_for(draft: _Draft, running: Sequence[Run], due: float) -> None:
    listed = f"{running[0].name} and {len(running) - 1} more" if len(running) > 1 else running[0].name
    if draft.one.spec.concurrency_policy == "Replace":
        draft.deletions += [DeleteRun(run.name, run.uid, with_pods=True) for run in running if not run.is_being_deleted]
        reason, text = reasons.REPLACING, f"the job for {timestamp(due)} is made when {listed} is deleted"
    else:
        reason, text = reasons.WAITING_FOR_RUN, f"the job for {timestamp(due)} waits until {listed} has ended"
    if draft.say(False, reason, text):
        draft.events.append(EmitEvent(reason, text))


def _say_what_comes(draft: _Draft, coming: float | None) -> None:
    old = find_condition(draft.status.conditions, READY)
    is_refused = old is not None and old.reason == reasons.RUN_REFUSED
    if is_refused and draft.creation is None and draft.status.observed_generation == draft.one.metadata.generation:
        # The same job will be made next time: what is wrong with it stays said.
        return
    if coming is not None:
        draft.say(True, reasons.SCHEDULED, f"the next job is made at {timestamp(coming)}")
    elif draft.one.spec.deadline is not None:
        text = f"no time of the schedule is left before spec.deadline {draft.one.spec.deadline}"
        draft.say(False, reasons.DEADLINE_PASSED, text)
    else:
        draft.warn(reasons.INVALID_SPEC, f"spec.schedule {draft.one.spec.schedule!r} never comes due")


def _body(one: CronTrainingJob, name: str, due: float) -> dict[str, Any]:
    template = one.spec.job_template
    group = f"{names.TRAINING_GROUP}/{names.API_VERSION}"
    own = {names.CRON_NAME_LABEL: one.metadata.name, names.CRON_UID_LABEL: one.metadata.uid}
    owner = {"apiVersion": group, "kind": CronTrainingJob.KIND, "name": one.metadata.name, "uid": one.metadata.uid}
    return {
        "apiVersion": group,
        "kind": TrainingJob.KIND,
        "metadata": {
            "name": name,
            "namespace": one.metadata.namespace,
            "labels": {**template.metadata.labels, **own},
            "annotations": {**template.metadata.annotations, names.SCHEDULED_AT_ANNOTATION: timestamp(due)},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
        "spec": template.spec.to_wire(),
    }
