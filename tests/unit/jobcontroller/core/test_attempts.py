"""Names and ports of attempts."""

from __future__ import annotations

from jobcontroller.core import attempts


def test_names_carry_role_index_and_attempt() -> None:
    assert attempts.pod_name("llm", "Worker", 3, 12) == "llm-worker-3-a12"
    assert attempts.host_name("llm", "PS", 0, 1) == "llm-ps-0-a1.llm"
    assert attempts.group_name("llm", 2) == "llm-a2"


def test_long_names_are_shortened_and_stay_different() -> None:
    one, other = "x" * 62 + "a", "x" * 62 + "b"
    names = {attempts.pod_name(job, "Worker", 19_999, 1000) for job in (one, other)}
    assert len(names) == 2
    assert all(len(name) <= 63 and name.endswith("-worker-19999-a1000") for name in names)


def test_the_port_follows_job_and_attempt() -> None:
    ports = [attempts.rendezvous_port("uid", attempt) for attempt in range(5)]
    assert ports == [attempts.rendezvous_port("uid", attempt) for attempt in range(5)]
    assert len(set(ports)) == 5
    assert all(20_000 <= port < 30_000 for port in ports)
