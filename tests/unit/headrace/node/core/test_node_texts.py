"""Small pure parts of the node: hosts file, log lines, probe counts, the Node object."""

from __future__ import annotations

from headrace.node.core import node_object
from headrace.node.core.hosts_file import NamedPod, render
from headrace.node.core.log_lines import LogOptions, choose, parse
from headrace.node.core.node_object import MachineFacts, NodeOffer
from headrace.node.core.pod_spec import HostAlias, Probe
from headrace.node.core.probe_state import ProbeCount, count

ONE = NamedPod("ns", "one", "gang", "127.16.0.2")
TWO = NamedPod("ns", "two", "gang", "127.17.0.2")


def test_every_named_pod_has_the_names_cluster_dns_would_give() -> None:
    text = render(["one"], ONE.address, [ONE, TWO], [], "")
    assert (
        "127.17.0.2\ttwo.gang.ns.svc.cluster.local two.gang.ns.svc two.gang.ns two.gang "
        "gang.ns.svc.cluster.local gang.ns.svc gang.ns gang\n"
    ) in text


def test_the_own_line_has_the_bare_name_too_and_appears_once() -> None:
    lines = render(["one"], ONE.address, [ONE, TWO], [], "").splitlines()
    own = [line for line in lines if line.startswith("127.16.0.2\t")]
    assert len(own) == 1
    assert own[0].endswith(" gang one")


def test_aliases_and_the_machine_s_names_are_kept() -> None:
    text = render(["p"], "127.16.0.9", [], [HostAlias("10.0.0.1", ["a", "b"])], "10.1.1.1 registry\n")
    assert "10.0.0.1\ta b\n" in text
    assert text.endswith("10.1.1.1 registry\n")


RAW = [
    b"2026-01-01T00:00:00.000000000Z stdout F one",
    b"2026-01-01T00:00:01.500000000Z stderr P tw",
    b"2026-01-01T00:00:01.600000000Z stderr F o\n",
    b"not ours",
]


def test_parts_are_joined_and_foreign_lines_shown() -> None:
    lines = choose(RAW, LogOptions())
    assert b"".join(line.shown(LogOptions()) for line in lines) == b"one\ntwo\nnot ours\n"


def test_timestamps_tail_and_since() -> None:
    stamped = LogOptions(timestamps=True, tail_lines=4)
    first = next(iter(choose(RAW, stamped)))
    assert first.shown(stamped) == b"2026-01-01T00:00:00.000000000Z one\n"
    assert len(list(choose(RAW, LogOptions(tail_lines=0)))) == 0
    since = 1767225601.0  # one second later
    assert [line.text for line in choose(RAW, LogOptions(since=since))] == [b"tw", b"o\n", b"not ours\n"]


def test_an_empty_line_is_a_line() -> None:
    assert parse(b"2026-01-01T00:00:00.000000000Z stdout F ").text == b"\n"


def test_a_probe_needs_its_threshold_in_a_row() -> None:
    probe = Probe(success_threshold=1, failure_threshold=3)
    state = ProbeCount()
    verdicts = []
    for answer in (True, False, False, True, False, False, False, True):
        state = count(state, probe, answer)
        verdicts.append(state.verdict)
    assert verdicts == [True, True, True, True, True, True, False, True]


FACTS = MachineFacts("amd64", "6.1", "Debian", "m", "s", "b", "0.1.0", 1000)
OFFER = NodeOffer("n", "8", "16Gi", 2, {"zone": "a"})


def test_the_node_offers_what_the_flags_say() -> None:
    assert node_object.allocatable(OFFER, FACTS) == {
        "cpu": 8000,
        "memory": 16 << 30,
        "pods": 110,
        "ephemeral-storage": 1000,
        "nvidia.com/gpu": 2,
    }
    assert node_object.labels(OFFER, FACTS)["zone"] == "a"


def test_a_condition_keeps_its_transition_time_while_its_status_stays() -> None:
    known = {"Ready": ("True", "2020-01-01T00:00:00Z")}

    def ready(is_shut_down: bool) -> dict[str, str]:
        status = node_object.status(OFFER, FACTS, kubelet_port=1, transitions=known, is_shut_down=is_shut_down, now=0.0)
        return next(dict(one) for one in status["conditions"] if one["type"] == "Ready")

    assert ready(False)["lastTransitionTime"] == "2020-01-01T00:00:00Z"
    down = ready(True)
    assert (down["status"], down["reason"]) == ("False", "NodeShutdown")
    assert down["lastTransitionTime"] == "1970-01-01T00:00:00Z"
