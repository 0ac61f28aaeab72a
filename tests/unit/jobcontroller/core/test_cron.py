"""A CronTrainingJob's rules, one decision at a time."""

from __future__ import annotations

from typing import Any

import pytest

from api import names
from api.conditions import find_condition, timestamp
from api.cron_v1alpha1 import CronTrainingJob
from api.training_v1alpha1 import TrainingJob
from jobcontroller.core.cron import CronPlan, DeleteRun, Run, decide
from jobcontroller.core.observed import Problem
from tests.builders.cron_jobs import cron_job
from tests.builders.training_jobs import CREATED_AT

HOUR = 3600.0
#: 2023-11-14 23:00 UTC, the first time after the object was made
FIRST = CREATED_AT - CREATED_AT % HOUR + HOUR
NAME = f"hourly-{int(FIRST) // 60}"


def after(one: CronTrainingJob, plan: CronPlan) -> CronTrainingJob:
    return one.model_copy(update={"status": plan.status or one.status})


def ready(one: CronTrainingJob, plan: CronPlan) -> tuple[str, str, str]:
    status = after(one, plan).status
    assert status is not None
    found = find_condition(status.conditions, "Ready")
    assert found is not None
    return found.status, found.reason, found.message


def events(plan: CronPlan) -> dict[str, str]:
    return {event.reason: event.note for event in plan.events}


def run(name: str = NAME, state: str = "", at: float = FIRST, **fields: Any) -> Run:
    return Run(name, f"uid-{name}", at, state, at + 60 if state else None, **fields)


def test_nothing_is_made_before_the_first_time() -> None:
    one = cron_job()
    plan = decide(one, [], CREATED_AT + 1)
    assert plan.creation is None
    assert plan.wake_after_seconds == FIRST - CREATED_AT - 1
    assert ready(one, plan) == ("True", "Scheduled", "the next job is made at 2023-11-14T23:00:00Z")
    again = decide(after(one, plan), [], CREATED_AT + 2)
    assert again.status is None


def test_a_job_is_made_for_the_time_and_owned() -> None:
    template = {
        **cron_job().spec.job_template.to_wire(),
        "metadata": {"labels": {"team": "a"}, "annotations": {"x": "y"}},
    }
    one = cron_job(jobTemplate=template)
    plan = decide(one, [], FIRST + 2)
    assert plan.creation is not None
    assert plan.creation.name == NAME
    body = plan.creation.body
    made = TrainingJob.model_validate(body)
    assert made.spec == one.spec.job_template.spec
    own = {names.CRON_NAME_LABEL: "hourly", names.CRON_UID_LABEL: "cron-uid"}
    assert body["metadata"]["labels"] == {"team": "a"} | own
    assert body["metadata"]["annotations"] == {"x": "y", names.SCHEDULED_AT_ANNOTATION: "2023-11-14T23:00:00Z"}
    (owner,) = body["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == ("CronTrainingJob", "cron-uid", True)
    assert plan.status is not None
    assert plan.status.active == [NAME]
    assert plan.status.last_schedule_time == plan.status.decided_time == timestamp(FIRST)
    assert events(plan) == {"JobCreated": f"TrainingJob {NAME} was made for 2023-11-14T23:00:00Z"}
    assert decide(after(one, plan), [run()], FIRST + 3).creation is None


def test_a_job_whose_status_was_lost_is_not_made_again() -> None:
    plan = decide(cron_job(), [run(state="Succeeded")], FIRST + 100)
    assert plan.creation is None
    assert plan.status is not None
    assert plan.status.decided_time == timestamp(FIRST)


def test_of_times_that_were_missed_only_the_newest_counts() -> None:
    plan = decide(cron_job(), [], FIRST + 5 * HOUR + 10)
    assert plan.creation is not None
    assert plan.creation.name == f"hourly-{int(FIRST + 5 * HOUR) // 60}"


def test_what_is_too_late_is_left_out_and_said_once() -> None:
    one = cron_job(startingDeadlineSeconds=60)
    plan = decide(one, [], FIRST + 61)
    assert plan.creation is None
    text = "no job is made for 2023-11-14T23:00:00Z: it is 61 s late and spec.startingDeadlineSeconds is 60"
    assert events(plan) == {"MissedSchedule": text}
    one = after(one, plan)
    assert events(decide(one, [], FIRST + 62)) == {}
    assert decide(cron_job(startingDeadlineSeconds=60), [], FIRST + 60).creation is not None


def test_forbid_waits_for_the_job_before_and_then_goes_on() -> None:
    one = cron_job(concurrencyPolicy="Forbid")
    one = after(one, decide(one, [], FIRST))
    plan = decide(one, [run()], FIRST + HOUR)
    assert plan.creation is None
    assert plan.deletions == ()
    text = f"the job for 2023-11-15T00:00:00Z waits until {NAME} has ended"
    assert ready(one, plan) == ("False", "WaitingForJob", text)
    assert events(plan) == {"WaitingForJob": text}
    one = after(one, plan)
    assert events(decide(one, [run()], FIRST + HOUR + 1)) == {}
    assert decide(one, [run(is_being_deleted=True)], FIRST + HOUR + 2).creation is None
    plan = decide(one, [run(state="Failed")], FIRST + HOUR + 3)
    assert plan.creation is not None
    assert events(plan)["JobEnded"] == f"TrainingJob {NAME}: Failed"


def test_replace_deletes_first_and_makes_the_new_one_when_the_old_is_gone() -> None:
    one = cron_job(concurrencyPolicy="Replace")
    one = after(one, decide(one, [], FIRST))
    plan = decide(one, [run()], FIRST + HOUR)
    assert plan.creation is None
    assert plan.deletions == (DeleteRun(NAME, f"uid-{NAME}", with_pods=True),)
    assert ready(one, plan)[1] == "Replacing"
    one = after(one, plan)
    plan = decide(one, [run(is_being_deleted=True)], FIRST + HOUR + 1)
    assert (plan.creation, plan.deletions) == (None, ())
    assert decide(one, [], FIRST + HOUR + 2).creation is not None


def test_allow_starts_beside() -> None:
    one = cron_job()
    one = after(one, decide(one, [], FIRST))
    plan = decide(one, [run()], FIRST + HOUR)
    assert plan.creation is not None
    assert plan.status is not None
    assert plan.status.active == [NAME, plan.creation.name]


def test_suspended_makes_nothing_and_resumed_makes_the_newest() -> None:
    one = cron_job(suspend=True)
    plan = decide(one, [], FIRST + 10)
    assert plan.creation is None
    assert plan.wake_after_seconds is None
    assert ready(one, plan)[:2] == ("False", "Suspended")
    resumed = cron_job(status=plan.status)
    assert decide(resumed, [], FIRST + 20).creation is not None


def test_after_the_deadline_nothing_is_made() -> None:
    one = cron_job(deadline=timestamp(FIRST + HOUR + 1))
    plan = decide(one, [], FIRST)
    assert plan.creation is not None
    one = after(one, plan)
    plan = decide(one, [], FIRST + 9 * HOUR)
    assert plan.creation is not None, "the last time before the deadline was missed"
    assert plan.creation.name == f"hourly-{int(FIRST + HOUR) // 60}"
    one = after(one, plan)
    plan = decide(one, [], FIRST + 10 * HOUR)
    assert (plan.creation, plan.wake_after_seconds) == (None, None)
    assert ready(one, plan)[:2] == ("False", "DeadlinePassed")


def test_older_jobs_that_have_ended_go_and_running_ones_stay() -> None:
    runs = [run(f"hourly-{i}", "Failed" if i % 2 else "Succeeded", FIRST + i) for i in range(5)]
    runs.append(run("hourly-x", at=CREATED_AT))
    plan = decide(cron_job(successfulJobsHistoryLimit=2, failedJobsHistoryLimit=1, suspend=True), runs, FIRST + 100)
    assert sorted(one.name for one in plan.deletions) == ["hourly-0", "hourly-1"]
    assert not any(one.with_pods for one in plan.deletions)
    assert plan.status is not None
    assert [(one.name, one.state) for one in plan.status.history] == [
        ("hourly-4", "Succeeded"),
        ("hourly-3", "Failed"),
        ("hourly-2", "Succeeded"),
    ]
    assert plan.status.active == ["hourly-x"]
    assert plan.status.last_successful_time == timestamp(FIRST + 64)


def test_of_two_jobs_of_one_second_the_one_for_the_earlier_time_goes() -> None:
    runs = [run("hourly-10", "Succeeded"), run("hourly-20", "Succeeded")]
    plan = decide(cron_job(successfulJobsHistoryLimit=1, suspend=True), runs, FIRST + 100)
    assert [one.name for one in plan.deletions] == ["hourly-10"]


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"schedule": "0 2 * *"}, "spec.schedule '0 2 * *' has 4 fields; it must be the five minute, hour"),
        ({"schedule": "0 25 * * *"}, "spec.schedule '0 25 * * *' cannot be read: bad hour"),
        ({"schedule": "TZ=UTC 0 2 * * *"}, "spec.schedule 'TZ=UTC 0 2 * * *' must not set a time zone"),
        ({"timeZone": "Mars/Olympus"}, "spec.timeZone 'Mars/Olympus' is not known; it must be an IANA name"),
        ({"deadline": "tomorrow"}, "spec.deadline 'tomorrow' must be a time with its zone, as 2030-12-31T00:00:00Z"),
        ({"deadline": "2030-01-01T00:00:00"}, "spec.deadline '2030-01-01T00:00:00' must be a time with its zone"),
        ({"name": "n" * 53}, "cannot begin its jobs' names: use at most 52"),
        ({"name": "a.b"}, "metadata.name 'a.b' cannot begin its jobs' names"),
    ],
)
def test_what_cannot_be_is_said_once(spec: dict[str, Any], text: str) -> None:
    one = cron_job(**spec)
    plan = decide(one, [], FIRST + 10)
    assert plan.creation is None
    state, reason, message = ready(one, plan)
    assert (state, reason) == ("False", "InvalidSpec")
    assert text in message
    assert events(plan) == {"InvalidSpec": message}
    assert events(decide(after(one, plan), [], FIRST + 20)) == {}


def test_a_refused_job_is_said_and_tried_again_unless_it_never_can_be() -> None:
    one = cron_job()
    quota = Problem("JobRefused", "TrainingJob x was refused: quota", is_permanent=False, retry_at=FIRST + 12)
    plan = decide(one, [], FIRST + 2, quota)
    assert plan.creation is None
    assert ready(one, plan) == ("False", "JobRefused", quota.message)
    assert plan.wake_after_seconds == 10
    one = after(one, plan)
    assert decide(one, [], FIRST + 12).creation is not None
    invalid = Problem("JobRefused", "TrainingJob x was refused: no", is_permanent=True)
    plan = decide(one, [], FIRST + 13, invalid)
    one = after(one, plan)
    plan = decide(one, [], FIRST + 14)
    assert plan.creation is None
    assert ready(one, plan) == ("False", "JobRefused", invalid.message), "it stays said until the next time"
    plan = decide(one, [], FIRST + HOUR)
    assert plan.creation is not None
    assert ready(one, plan)[:2] == ("True", "Scheduled")


def test_one_that_is_being_deleted_does_nothing() -> None:
    one = cron_job()
    metadata = one.metadata.model_copy(update={"deletion_timestamp": timestamp(FIRST)})
    assert decide(one.model_copy(update={"metadata": metadata}), [], FIRST + 10) == CronPlan()
