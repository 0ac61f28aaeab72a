"""Hangs: an attempt whose pods all run and none of which gives a sign of life (`runPolicy.hangDetection`).

Owns when the signs have to be looked at, and the verdict. A distributed job stands still as a whole, so one sign of any
pod is enough. Signs are the last line of a pod's log, the time of the progress file, and heartbeats (an annotation);
what is read from outside (shell/signs.py) is read only when it is due, once a silence. Sign or not, that is judged by a
reading made after the silence was long enough, and never by one that failed.

A hang is a failure of the infrastructure, until it happens again at the same step: then it is the program's. The step
is a heartbeat's, else the newest complete checkpoint's; without either nothing is ever "the same step".

Invariants: no verdict before every container runs, nor while a member is ending; what is older than the attempt's last
start is no sign."""

from __future__ import annotations

from collections.abc import Sequence

from api.conditions import parse_timestamp, timestamp
from api.training_v1alpha1 import HangDetection, TrainingJob
from jobcontroller.core import checkpoints
from jobcontroller.core.exit_class import Failure, FailureKind
from jobcontroller.core.observed import Heartbeat, PodPhase, PodView, Sign, Signs
from jobcontroller.core.turn import Turn

#: a reading that failed is tried again after this
READ_AGAIN_SECONDS = 5.0
#: signals that are in the pods themselves and need no reading
_WITH_PODS = "Heartbeat"
_WORDS = {"Log": "log line", "ProgressFile": "change of the progress file", "Heartbeat": "heartbeat"}


def due_at(job: TrainingJob, pods: Sequence[PodView], signs: Signs | None) -> float | None:
    """Return when the silence of an attempt's pods will be long enough, by what is known; None = it cannot hang now."""
    policy = job.spec.run_policy.hang_detection
    if policy is None or not pods:
        return None
    if any(pod.deletion_at is not None or not (pod.is_running or pod.phase is PodPhase.SUCCEEDED) for pod in pods):
        return None
    if all(pod.is_finished for pod in pods):
        return None
    began_at = max(pod.started_at or 0.0 for pod in pods)
    wait = policy.start_seconds if policy.start_seconds is not None else policy.timeout_seconds
    last = [one.at for one in _signs(policy, pods, signs) if one.at is not None and one.at > began_at]
    return max([began_at + wait, *(at + policy.timeout_seconds for at in last)])


def needs_reading(job: TrainingJob, pods: Sequence[PodView], signs: Signs | None, now: float) -> bool:
    """Whether the signs that are not in the pods have to be read now."""
    policy, due = job.spec.run_policy.hang_detection, due_at(job, pods, signs)
    if policy is None or due is None or now < due or set(policy.signals) == {_WITH_PODS}:
        return False
    if signs is None:
        return True
    return signs.read_at < due if not signs.error else now >= signs.read_at + READ_AGAIN_SECONDS


def of_attempt(turn: Turn) -> list[Failure]:
    """Return the failure of an attempt that hangs; [] when it does not, or nobody can tell yet."""
    policy, signs = turn.job.spec.run_policy.hang_detection, turn.observed.signs
    pods = turn.current_pods()
    if policy is None or turn.status.created_attempt != turn.attempt or len(pods) < len(turn.members()):
        return []
    due = due_at(turn.job, pods, signs)
    if due is None or turn.now < due:
        turn.wake_at(due)
        return []
    is_read = signs is not None and not signs.error and signs.read_at >= due
    if not is_read and set(policy.signals) != {_WITH_PODS}:
        turn.wake_at(turn.now + READ_AGAIN_SECONDS)
        return []
    return [_failure(turn, policy, pods, signs)]


def step_of(turn: Turn) -> int | None:
    """Return the step the attempt is known to have reached; None = it is not known."""
    steps = [pod.heartbeat.step for pod in turn.current_pods() if pod.heartbeat and pod.heartbeat.step is not None]
    if steps:
        return max(steps)
    seen = turn.observed.checkpoints
    if seen is None or seen.error:
        return turn.status.resume_step
    created_at = parse_timestamp(turn.job.metadata.creation_timestamp or timestamp(0))
    newest = checkpoints.newest_complete(seen.found, created_at, turn.status)
    return newest.step if newest is not None else turn.status.resume_step


def parse_heartbeat(text: str) -> Heartbeat | None:
    """Read names.HEARTBEAT_ANNOTATION's value, `<RFC 3339 time>` or `<time>/<step>`; None when it is neither."""
    at, _, step = text.partition("/")
    if step and not (step.isascii() and step.isdigit() and len(step) <= 18):
        return None
    try:
        return Heartbeat(parse_timestamp(at), int(step) if step else None)
    except ValueError:
        return None


def _failure(turn: Turn, policy: HangDetection, pods: Sequence[PodView], signs: Signs | None) -> Failure:
    began_at = max(pod.started_at or 0.0 for pod in pods)
    said, last = [], began_at
    for one in _signs(policy, pods, signs):
        word = _WORDS[one.signal]
        if one.at is not None and one.at > began_at:
            said.append(f"no {word} for {turn.now - one.at:.0f} s (the last: {one.source})")
            last = max(last, one.at)
        else:
            said.append(f"no {word} since all pods run, {turn.now - began_at:.0f} s")
    step = step_of(turn)
    is_again = step is not None and step == turn.status.hung_at_step
    where = f" at step {step}" if step is not None else ""
    again = ", as the attempt before did there: the program seems to be the cause" if is_again else ""
    first = min(pods, key=lambda pod: (pod.role, pod.index))
    return Failure(
        kind=FailureKind.USER_ERROR if is_again else FailureKind.INFRASTRUCTURE,
        pod=first.name,
        uid=f"hang:{turn.job.metadata.uid}:{turn.attempt}",
        role=first.role,
        index=first.index,
        message=(
            f"attempt {turn.attempt} hangs{where}{again}: {' and '.join(said)}; "
            f"runPolicy.hangDetection.timeoutSeconds is {policy.timeout_seconds}"
        ),
        at=last,
        is_hang=True,
    )


def _signs(policy: HangDetection, pods: Sequence[PodView], signs: Signs | None) -> list[Sign]:
    """One for each signal of the policy, in its order."""
    known = {one.signal: one for one in signs.found} if signs is not None else {}
    if _WITH_PODS in policy.signals:
        beats = [(pod.heartbeat.at, pod.name) for pod in pods if pod.heartbeat is not None]
        at, name = max(beats, default=(None, ""))
        known[_WITH_PODS] = Sign(_WITH_PODS, at, f"pod {name}")
    return [known.get(signal, Sign(signal)) for signal in policy.signals]
