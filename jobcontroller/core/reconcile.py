"""One decision about one job: what was observed → the next status and what to do.

Owns the order of the steps; each step's rule is in a module of its own. The life of a job:

    accepted ─► [suspended] ─► waits (data, checkpoints, old pods) ─► attempt started ─► pods created
                     ▲                       ▲                                              │
                     │ suspend               │ attempt + 1: a member failed, budget left    ▼
                     └───────────────────────┴───────────────────────────────────────── running
                                                                                            │
    deleted after its TTL ◄─ cleaned up ◄─ Succeeded or Failed (never left) ◄───────────────┘

Invariants: deterministic; the plan's status is stored, with the job's resourceVersion as precondition, before
any of its actions is performed, so a crash between any two actions is made good by deciding again. The attempt
number in the status is the commit point of a restart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from api import names
from api.conditions import find_condition, parse_timestamp, timestamp
from api.training_v1alpha1 import CREATED, DATA_READY, FAILED, QUEUED, RESTARTING, SUCCEEDED, SUSPENDED, is_finished
from jobcontroller.core import (
    attempts,
    checkpoints,
    cleanup,
    data,
    deadlines,
    drain,
    elastic,
    equipment,
    failures,
    fencing,
    fresh_data,
    gang,
    hang,
    progress,
    reasons,
    resize,
    restart_policy,
    retention,
    roles,
    startup,
    suspects,
    suspend,
    validation,
)
from jobcontroller.core.actions import ApplyPodGroup, ApplyService, CreatePod, DeleteJob, DeletePodGroup, Plan
from jobcontroller.core.exit_class import FailureKind
from jobcontroller.core.framework import is_equipped
from jobcontroller.core.observed import CheckpointView, Observed, PodView
from jobcontroller.core.ownership import is_ours
from jobcontroller.core.pod_builder import build_pod, rendezvous
from jobcontroller.core.status import StatusDraft
from jobcontroller.core.turn import Policy, Turn

MAX_HANDLED_FAILURES = 64
#: pause before a metadata service that did not answer is asked again
ASK_AGAIN_SECONDS = 2.0
NOTHING = Plan(None)

Step = Callable[[Turn], Plan | None]


def reconcile(observed: Observed, now: float, policy: Policy | None = None) -> Plan:
    """Return what is to be done about one job at `now` (seconds since 1970)."""
    framework = observed.framework
    if is_equipped(framework):
        spec = framework.with_defaults(observed.job.spec)
        observed = replace(observed, job=observed.job.model_copy(update={"spec": spec}))
    turn = Turn(observed, now, policy or Policy(), StatusDraft(observed.job, now))
    steps: tuple[Step, ...] = (
        _leave_alone,
        _clean_up_finished,
        _accept,
        _stop,
        _succeed_before_suspension,
        _hold_back_suspended,
        _resume,
        _keep_deadline,
        _succeed,
        _give_back,
        _restart_after_failure,
        _end_older_attempts,
        _hold_back_queued,
        _fence_lost,
        _start_attempt,
        _create_missing,
        _change_size,
        _release_roles,
        _report,
    )
    for step in steps:
        plan = step(turn)
        if plan is not None:
            return plan
    return turn.plan()


def _leave_alone(turn: Turn) -> Plan | None:
    job = turn.job
    if job.metadata.deletion_timestamp is not None or not is_ours(job):
        return NOTHING
    return None


def _clean_up_finished(turn: Turn) -> Plan | None:
    job, status = turn.job, turn.job.status
    if status is None or not is_finished(status):
        return None
    policy = job.spec.run_policy
    going = cleanup.pods_to_end(policy, turn.observed.pods, status)
    fencing.end_pods(turn, going)
    expires_at = cleanup.expires_at(policy, status)
    is_expired = expires_at is not None and turn.now >= expires_at
    if is_expired and not going:
        return Plan(None, actions=(DeleteJob(job.metadata.uid),))
    # The last checkpoints were written after the last look.
    retention.apply(turn)
    seen = turn.observed.checkpoints
    if seen is not None and seen.error:
        turn.wake_at(turn.now + ASK_AGAIN_SECONDS)
    turn.act(DeletePodGroup(name) for name in sorted(turn.observed.groups))
    if not is_expired:
        turn.wake_at(expires_at)
    return turn.plan_of_finished()


def _accept(turn: Turn) -> Plan | None:
    job, framework = turn.job, turn.observed.framework
    if framework is None:
        known = ", ".join(turn.observed.supported_frameworks)
        text = f"spec.framework {job.spec.framework} is not supported yet; supported are {known}"
        return _finish(turn, FAILED, reasons.FRAMEWORK_NOT_SUPPORTED, text)
    if _was_accepted(turn):
        return None
    problem = validation.first_problem(job, framework)
    if problem is not None:
        return _finish(turn, FAILED, reasons.INVALID_SPEC, problem)
    unused = validation.fields_without_effect(job.spec)
    text = f"without effect in this version: {', '.join(f'spec.{name}' for name in unused)}" if unused else ""
    if text and not turn.draft.is_true(CREATED):
        turn.event("FieldsWithoutEffect", text, "Warning")
    turn.draft.set(CREATED, True, reasons.ACCEPTED, text or "the job was accepted")
    if turn.status.attempt_began_at is None:
        turn.status.attempt_began_at = timestamp(turn.now)
    return None


def _was_accepted(turn: Turn) -> bool:
    """Whether just this spec was looked through before; most of a job's turns are later ones."""
    created = find_condition(turn.status.conditions, CREATED)
    is_known = created is not None and created.status == "True"
    generation = created.observed_generation if created is not None else None
    return is_known and generation == turn.job.metadata.generation and turn.status.attempt_began_at is not None


def _stop(turn: Turn) -> Plan | None:
    if names.STOP_ANNOTATION not in turn.job.metadata.annotations:
        return None
    return _finish(turn, FAILED, reasons.STOPPED, "the job was stopped; it cannot be resumed")


def _succeed_before_suspension(turn: Turn) -> Plan | None:
    """A job whose work was done before it was suspended has succeeded: resumed it would do it again."""
    if not suspend.wants_suspension(turn.job) or suspend.is_suspended(turn.status):
        return None
    return _succeed(turn)


def _hold_back_suspended(turn: Turn) -> Plan | None:
    if not suspend.wants_suspension(turn.job):
        return None
    pods = list(turn.observed.pods)
    if not pods:
        turn.status.admitted_queue = turn.status.admitted_gpus = turn.status.reclaimed_by = None
    turn.status.data_listed_since = None
    if not suspend.is_suspended(turn.status):
        _record_end(turn, turn.now, failed=False)
        turn.status.start_time = None
        turn.event(SUSPENDED, "the job was suspended; its pods are deleted")
        turn.outcome = reasons.SUSPENDED
    left = "no pods are left; set spec.runPolicy.suspend to false to go on"
    if pods:
        problem = turn.observed.fence_problem
        left = f"{len(pods)} pods are ending{f': {problem.message}' if problem is not None else ''}"
    turn.draft.unplace(reasons.SUSPENDED, "the job is suspended")
    turn.draft.enter(SUSPENDED, reasons.SUSPENDED, left)
    fencing.end_pods(turn, pods, _grace_seconds(turn))
    turn.act(DeletePodGroup(name) for name in sorted(turn.observed.groups))
    return turn.plan()


def _resume(turn: Turn) -> Plan | None:
    if not suspend.is_suspended(turn.status):
        return None
    _begin_attempt(turn, suspend.attempt_after_resume(turn.status))
    turn.draft.enter(QUEUED, reasons.RESUMED, "the job was resumed")
    turn.event(reasons.RESUMED, f"the job was resumed as attempt {turn.attempt}")
    return None


def _keep_deadline(turn: Turn) -> Plan | None:
    deadline_at = deadlines.deadline_at(turn.job.spec.run_policy, turn.status)
    if deadline_at is None or turn.now < deadline_at:
        turn.wake_at(deadline_at)
        return None
    seconds = turn.job.spec.run_policy.active_deadline_seconds
    text = f"the job ran for longer than runPolicy.activeDeadlineSeconds {seconds}"
    return _finish(turn, FAILED, reasons.DEADLINE_EXCEEDED, text)


def _succeed(turn: Turn) -> Plan | None:
    framework = turn.observed.framework
    if framework is None or turn.status.started_attempt != turn.attempt:
        return None
    counts = roles.counts(turn.status.started_replicas, turn.current_pods())
    workers = counts.get("Worker")
    if turn.job.spec.run_policy.success_policy == "AllWorkers" and workers is not None:
        done = workers.all_succeeded
    else:
        done = framework.succeeded(counts)
    if not done:
        return None
    return _finish(turn, SUCCEEDED, reasons.SUCCEEDED, f"attempt {turn.attempt} finished its work")


def _give_back(turn: Turn) -> Plan | None:
    """End the attempt of a job whose queue borrowed what another now takes back."""
    admission, status = turn.observed.admission, turn.status
    if admission is None or admission.reclaim is None or status.reclaimed_by is not None:
        return None
    _record_end(turn, turn.now, failed=True)
    # Held until the last pod is gone, by a job too that ran before it had a queue.
    status.admitted_queue, status.admitted_gpus = admission.queue, admission.gpus
    status.reclaimed_by = "/".join(admission.reclaim.by)
    _begin_attempt(turn, suspend.attempt_after_resume(status))
    turn.draft.enter(QUEUED, reasons.RECLAIMED, admission.reclaim.message)
    turn.event(reasons.RECLAIMED, f"{admission.reclaim.message}; it waits to be admitted again", "Warning")
    turn.outcome = reasons.RECLAIMED
    return None


def _restart_after_failure(turn: Turn) -> Plan | None:
    if turn.status.started_attempt != turn.attempt:
        return None
    found = failures.of_attempt(turn)
    if not found:
        return None
    settled_at = failures.settled_at(turn, found)
    if turn.now < settled_at:
        turn.wake_at(settled_at)
        return _report(turn)
    suspects.note(turn, found)
    if resize.survive(turn, found):
        return None
    cause = failures.cause(turn, found)
    policy = turn.job.spec.run_policy
    replica = turn.job.spec.replica_specs.get(cause.role)
    verdict = restart_policy.decide(policy, replica.restart_policy if replica else None, turn.status.restarts, cause)
    if not verdict.may_restart:
        return _finish(turn, FAILED, verdict.reason, verdict.message)
    _record_end(turn, min(cause.at or turn.now, turn.now), failed=True)
    resize.note_loss(turn, found)
    workers = resize.workers_after(turn, found)
    turn.status.restarts = restart_policy.count(turn.status.restarts, cause.kind)
    handled = [*turn.status.handled_failures, *(failure.uid for failure in found)]
    turn.status.handled_failures = handled[-MAX_HANDLED_FAILURES:]
    if cause.is_hang:
        turn.status.hung_at_step = hang.step_of(turn)
    elif cause.kind is FailureKind.USER_ERROR:
        _doubt_checkpoint(turn)
    _begin_attempt(turn, turn.attempt + 1, workers)
    turn.draft.enter(RESTARTING, verdict.reason, verdict.message)
    resume = failures.resume_text(turn) + _size_clause(turn)
    turn.event(RESTARTING, f"{verdict.message}; attempt {turn.attempt} {resume}", "Warning")
    turn.outcome = verdict.reason
    return None


def _doubt_checkpoint(turn: Turn) -> None:
    seen, created_at = turn.observed.checkpoints, turn.job.metadata.creation_timestamp
    if seen is None or seen.error:
        return
    path = turn.status.resume_path
    doubted = checkpoints.note_failed_resume(turn.status, seen.found, parse_timestamp(created_at or timestamp(0)))
    if doubted is not None:
        text = (
            f"{checkpoints.FAILED_RESUMES_TO_DISTRUST} attempts that resumed from {path} ended with an error before a "
            "newer checkpoint was complete; none resumes from it any more until it is saved anew"
        )
        turn.event(reasons.CHECKPOINT_DISTRUSTED, text, "Warning")


def _end_older_attempts(turn: Turn) -> Plan | None:
    older = turn.other_pods()
    fencing.end_pods(turn, older, _grace_seconds(turn))
    outsiders = [pod for pod in turn.other_workers() if pod.index not in elastic.reserves(turn.status)]
    fencing.end_pods(turn, outsiders, _grace_seconds(turn))
    current = attempts.group_name(turn.job.metadata.name, turn.attempt)
    turn.act(DeletePodGroup(name) for name in sorted(turn.observed.groups - {current}))
    if not older:
        return None
    problem = turn.observed.fence_problem
    if problem is not None:
        turn.draft.wait(problem.reason, problem.message)
    else:
        turn.draft.wait(reasons.WAITING_FOR_OLD_PODS, f"{len(older)} pods of the attempt before are ending")
    return turn.plan()


def _fence_lost(turn: Turn) -> Plan | None:
    return turn.plan() if fencing.fence_lost(turn) else None


def _hold_back_queued(turn: Turn) -> Plan | None:
    admission = turn.observed.admission
    if turn.status.reclaimed_by is not None:
        # The last pod is gone.
        turn.status.reclaimed_by = turn.status.admitted_queue = turn.status.admitted_gpus = None
        return turn.plan()
    if admission is None:
        return None
    if admission.hold is not None:
        queued = find_condition(turn.status.conditions, QUEUED)
        is_new = queued is None or queued.reason != reasons.RECLAIMING
        if admission.hold.reason == reasons.RECLAIMING and is_new:
            turn.event(reasons.RECLAIMING, admission.hold.message)
        turn.draft.wait(admission.hold.reason, admission.hold.message)
        return turn.plan()
    if turn.status.admitted_queue is None:
        turn.status.admitted_queue, turn.status.admitted_gpus = admission.queue, admission.gpus
        turn.event(reasons.ADMITTED, f"queue {admission.queue} gave the job {admission.gpus} GPUs")
    return None


def _start_attempt(turn: Turn) -> Plan | None:
    job, status = turn.job, turn.status
    verdict = data.data_ready(job.spec, turn.observed.datasets, turn.attempt)
    if verdict is not None and verdict.is_ready and status.started_attempt != turn.attempt:
        verdict = fresh_data.not_listed(turn) or verdict
    if verdict is not None:
        turn.draft.set(DATA_READY, verdict.is_ready, verdict.reason, verdict.message)
    if status.started_attempt == turn.attempt:
        return None
    start_at = deadlines.next_attempt_at(status)
    if turn.now < start_at:
        turn.wake_at(start_at)
        seconds = int(start_at - parse_timestamp(status.attempt_began_at or timestamp(turn.now)))
        turn.draft.wait(reasons.BACKING_OFF, f"attempts end soon after they begin; the next one waits for {seconds} s")
        return turn.plan()
    if verdict is not None and not verdict.is_ready:
        turn.draft.wait(reasons.WAITING_FOR_DATA, verdict.message)
        return turn.plan()
    seen = turn.observed.checkpoints
    if seen is not None and seen.error:
        turn.wake_at(turn.now + ASK_AGAIN_SECONDS)
        turn.draft.wait(reasons.WAITING_FOR_METADATA, f"the newest checkpoint is not known yet: {seen.error}")
        return turn.plan()
    chosen = None
    # A first attempt that found checkpoints of another run would not be the run its user asked for.
    if seen is not None and turn.attempt > 0:
        chosen = checkpoints.newest_complete(
            seen.found,
            parse_timestamp(job.metadata.creation_timestamp or timestamp(0)),
            status,
        )
        status.checkpoints = checkpoints.statuses(seen.found)
        _say_skipped(turn, seen.found, chosen)
    status.started_attempt = turn.attempt
    status.suspect_nodes = suspects.current(status, turn.now)
    status.started_replicas = roles.replicas(job.spec)
    elastic.begin(job, status)
    status.grace_seconds = drain.grace_seconds(job, status, turn.observed.bytes_per_second)
    status.prewarmed = []
    status.resume_step = chosen.step if chosen else None
    status.resume_path = chosen.path if chosen else None
    if status.start_time is None:
        status.start_time = timestamp(turn.now)
        turn.wake_at(deadlines.deadline_at(job.spec.run_policy, status))
    begins = f"resumes from step {chosen.step} ({chosen.path})" if chosen else "starts from the beginning"
    turn.event("AttemptStarted", f"attempt {turn.attempt} {begins}")
    return None


def _say_skipped(turn: Turn, found: Sequence[CheckpointView], chosen: CheckpointView | None) -> None:
    torn = checkpoints.newest_torn(found, chosen, turn.status)
    if torn is not None:
        instead = f"resumes from {chosen.path}" if chosen is not None else "starts from the beginning"
        text = (
            f"checkpoint {torn.path} is not complete: {torn.problem or 'it is torn'}; attempt {turn.attempt} {instead}"
        )
        turn.event(reasons.CHECKPOINT_SKIPPED, text, "Warning")


def _create_missing(turn: Turn) -> Plan | None:
    job, framework = turn.job, turn.observed.framework
    present = {pod.key for pod in turn.current_pods()}
    missing = [member for member in turn.members() if member not in present]
    if not missing:
        turn.status.created_attempt = turn.attempt
        return None
    if framework is None or turn.status.created_attempt == turn.attempt:
        return None
    problem = turn.observed.problem
    if problem is not None and problem.is_permanent:
        return _finish(turn, FAILED, problem.reason, problem.message)
    if problem is not None and turn.now < problem.retry_at:
        turn.wake_at(problem.retry_at)
        turn.draft.wait(problem.reason, problem.message)
        return turn.plan()
    gone = [role for role, _ in missing if role not in job.spec.replica_specs]
    if gone:
        text = f"spec.replicaSpecs.{gone[0]} was removed while attempt {turn.attempt} was being created"
        return _finish(turn, FAILED, reasons.INVALID_SPEC, text)
    if not turn.observed.has_service:
        turn.act([ApplyService(job.metadata.name, gang.service(job))])
    group = attempts.group_name(job.metadata.name, turn.attempt)
    if group not in turn.observed.groups:
        turn.act([ApplyPodGroup(group, gang.pod_group(job, turn.attempt, turn.status.started_replicas))])
    if is_equipped(framework):
        files = framework.equipment(rendezvous(job, turn.status, framework))
        turn.act(equipment.creations(job, turn.attempt, files))
    for role, index in missing:
        body = build_pod(job, turn.status, framework, role, index)
        turn.act([CreatePod(body["metadata"]["name"], body)])
    text = problem.message if problem is not None else f"{len(present)} of {len(turn.members())} pods are created"
    turn.draft.wait(problem.reason if problem is not None else reasons.CREATING_PODS, text)
    return turn.plan()


def _change_size(turn: Turn) -> Plan | None:
    change = resize.fit(turn) or resize.grow(turn)
    if change is None:
        return None
    _record_end(turn, turn.now, failed=True)
    _begin_attempt(turn, turn.attempt + 1, change.workers)
    text = f"{change.text}; attempt {turn.attempt} {failures.resume_text(turn)}{_size_clause(turn)}"
    turn.draft.enter(RESTARTING, change.reason, text)
    turn.event(change.reason, text)
    turn.outcome = change.reason
    return turn.plan()


def _release_roles(turn: Turn) -> Plan | None:
    turn.act(startup.releases(turn.job.spec, turn.status.started_replicas, turn.current_pods()))
    return None


def _report(turn: Turn) -> Plan:
    progress.describe(turn)
    drain.prewarm_restart(turn)
    pods = turn.current_pods()
    turn.record_goodput(pods, _began_at(turn), until=turn.now, ended=False, failed=False)
    seen = turn.observed.checkpoints
    if seen is not None:
        created_at = parse_timestamp(turn.job.metadata.creation_timestamp or timestamp(0))
        turn.act(checkpoints.annotate(pods, seen.found, created_at))
    retention.apply(turn)
    return turn.plan()


def _finish(turn: Turn, state: str, reason: str, message: str) -> Plan:
    """End the job for good; the next look at it cleans up."""
    _record_end(turn, turn.now, failed=state == FAILED)
    turn.draft.finish(state, reason, message)
    turn.event(state, message, "Normal" if state == SUCCEEDED else "Warning")
    turn.outcome = reason
    plan = turn.plan()
    keeps_pods = turn.job.spec.run_policy.clean_pod_policy == "None" and reason not in cleanup.CUT_OFF
    if plan.status is not None and not keeps_pods:
        for replica in plan.status.replica_statuses.values():
            replica.active = replica.ready = 0
    return plan


def _begin_attempt(turn: Turn, attempt: int, workers: int | None = None) -> None:
    """Commit to an attempt. `workers` of an elastic job: None = as many as the spec says."""
    asked = turn.job.spec.replica_specs.get(elastic.ROLE)
    if turn.status.elastic is not None and asked is not None:
        turn.status.elastic.replicas = workers if workers is not None else asked.replicas
    turn.status.attempt = attempt
    turn.status.attempt_began_at = timestamp(turn.now)
    turn.draft.unplace(reasons.WAITING_FOR_PLACEMENT, f"attempt {attempt} has no pods yet")


def _size_clause(turn: Turn) -> str:
    state = turn.status.elastic
    text = resize.size_text(turn, state.replicas) if state is not None else ""
    return f", with {text}" if text else ""


def _record_end(turn: Turn, until: float, *, failed: bool) -> None:
    pods: list[PodView] = turn.current_pods()
    ends = [pod.finished_at for pod in pods if pod.finished_at is not None]
    if not failed and ends and len(ends) == len(pods):
        until = max(ends)
    turn.record_goodput(pods, _began_at(turn), until=until, ended=True, failed=failed)


def _began_at(turn: Turn) -> float:
    began_at = turn.status.attempt_began_at
    return parse_timestamp(began_at) if began_at else turn.now


def _grace_seconds(turn: Turn) -> int | None:
    """Return the grace of pods that are ended by us; None = each its own.

    Pods of the first attempt were made when no checkpoint was known to size it by; by now one may be."""
    checkpoint = turn.job.spec.checkpoint
    if checkpoint is None or checkpoint.grace_seconds is not None:
        return checkpoint.grace_seconds if checkpoint is not None else None
    templates = (replica.template.get("spec") or {} for replica in turn.job.spec.replica_specs.values())
    if any(template.get("terminationGracePeriodSeconds") is not None for template in templates):
        return None
    return drain.grace_seconds(turn.job, turn.status, turn.observed.bytes_per_second)
