"""The shell's pure edges: objects into events, relists into deletions, settings, addresses."""

from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from kube.errors import ConfigError
from kube.http import parse_address
from kube.objects import ContainerStatus, PodStatus, ResourceRequirements
from kube.watch import Change, ChangeKind, Changes, Listed
from scheduler.core import events
from scheduler.core.events import PodAssigned, PodGone, PodPending
from scheduler.errors import ConfigurationError
from scheduler.settings import load
from scheduler.shell.translate import PodTranslator
from scheduler.shell.watches import Follower, kinds
from tests.builders.scheduler_objects import PodBuilder, a_node, a_pod

#: nine lists of ten of the one before: written out, more than a machine holds
ALIASES = "a: &a [x]\n" + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in pairwise("abcdefghij"))
TRANSLATOR = PodTranslator(["headrace-scheduler"], 100.0)


def _event(pod: PodBuilder) -> object:
    return TRANSLATOR.event(pod.build())


def test_an_unbound_pod_of_ours_is_pending_since_its_creation() -> None:
    event = _event(a_pod("p"))
    assert isinstance(event, PodPending)
    assert event.pod.waiting_since == 100.0


def test_an_unbound_pod_of_another_scheduler_is_no_concern() -> None:
    assert _event(a_pod("p").scheduled_by("default-scheduler")) is None


def test_an_unbound_pod_that_is_being_deleted_is_gone() -> None:
    assert _event(a_pod("p").being_deleted()) == PodGone("uid-p")


def test_any_bound_pod_takes_room_until_it_ends() -> None:
    event = _event(a_pod("p").scheduled_by("default-scheduler").on("n").being_deleted())
    assert isinstance(event, PodAssigned)
    assert (event.pod.node, event.is_ours, event.is_leaving) == ("n", False, True)
    assert _event(a_pod("p").on("n").finished("Failed")) == PodGone("uid-p", False, "default", None)
    assert _event(a_pod("p").in_gang("g").on("n").finished()) == PodGone("uid-p", True, "default", "g")


def test_a_resized_pod_counts_with_what_the_kubelet_says() -> None:
    pod = a_pod("p").asks(cpu="1").on("n").build()
    status = ContainerStatus(name="main", resources=ResourceRequirements(requests={"cpu": "3"}))
    resized = type(pod)(metadata=pod.metadata, spec=pod.spec, status=PodStatus(container_statuses=[status]))
    event = TRANSLATOR.event(resized)
    assert isinstance(event, PodAssigned)
    assert event.pod.requests == (("cpu", 3000),)


def _follower(plural: str) -> Follower:
    return Follower(next(kind for kind in kinds(TRANSLATOR) if kind.resource.plural == plural))


def test_a_relist_reveals_what_is_gone() -> None:
    follower = _follower("nodes")
    follower.events(Listed([a_node("a"), a_node("b")], "1"))
    made = follower.events(Listed([a_node("b")], "2"))
    assert made[0] == events.NodeGone("a")
    assert len(made) == 2


def test_a_pod_created_again_under_its_name_is_gone_first() -> None:
    follower = _follower("pods")
    follower.events(Listed([a_pod("p", uid="old").build()], "1"))
    made = follower.events(Changes([Change(ChangeKind.ADDED, a_pod("p", uid="new").build())]))
    assert made[0] == PodGone("old")
    assert isinstance(made[1], PodPending)


def test_a_deletion_names_the_uid() -> None:
    follower = _follower("pods")
    pod = a_pod("p").build()
    follower.events(Listed([pod], "1"))
    assert follower.events(Changes([Change(ChangeKind.DELETED, pod)])) == [PodGone("uid-p")]
    assert follower.events(Changes([Change(ChangeKind.DELETED, pod)])) == []


def test_what_says_which_pods_belong_together_is_followed_by_selector_and_label() -> None:
    meta = {"namespace": "default", "name": "x", "uid": "u"}
    followed = {
        "namespaces": ({"metadata": {"name": "x", "labels": {"team": "blue"}}}, "NamespaceChanged", "NamespaceGone"),
        "services": ({"metadata": meta, "spec": {"selector": {"app": "web"}}}, "ServiceChanged", "ServiceChanged"),
        "replicasets": (
            {"metadata": meta, "spec": {"selector": {"matchLabels": {"app": "web"}}, "replicas": 3}},
            "ControllerChanged",
            "ControllerChanged",
        ),
    }
    made = {}
    for plural, (raw, changed, gone) in followed.items():
        follower = _follower(plural)
        item = msgspec.convert(raw, follower.kind.decode)
        (first,) = follower.events(Listed([item], "1"))
        (last,) = follower.events(Listed([], "2"))
        assert (type(first).__name__, type(last).__name__) == (changed, gone)
        made[plural] = first, last
    assert made["namespaces"] == (events.NamespaceChanged("x", {"team": "blue"}), events.NamespaceGone("x"))
    assert made["services"] == (
        events.ServiceChanged("default", "x", {"app": "web"}),
        events.ServiceChanged("default", "x", None),
    )
    selector = {"matchLabels": {"app": "web"}}
    assert made["replicasets"] == (
        events.ControllerChanged("ReplicaSet", "default", "x", selector),
        events.ControllerChanged("ReplicaSet", "default", "x", None),
    )


def test_settings_from_a_file_and_arguments(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("weights: {gpu_fit: 10}\nqps: 100\n")
    settings = load(file, {"qps": 50.0, "metrics": None})
    assert (settings.weights.gpu_fit, settings.weights.stage_in, settings.qps) == (10, 100, 50)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weights: {gpu: 1}", "weights.gpu"),
        ("binds_in_flight: 0", "binds_in_flight"),
        ("- a", "must hold a mapping"),
        ("a: [", "not valid YAML"),
        ("speeds: {origin_bytes_per_second: 0}", "speeds.origin_bytes_per_second"),
        ("1: 2", "settings: 1: there is no such setting; known are scheduler_name, weights, "),
        ("a: b: c", "is not valid YAML at line 1, column 5: mapping values are not allowed here"),
        ("weights:\n\t- 1", "is not valid YAML at line 2, column 1: found character"),
        ("[" * 5000, "is not valid YAML: nested too deeply"),
        ("qps: 1\xe9", "is not UTF-8 (byte 6)"),
        ("first_backoff_seconds: .inf", "first_backoff_seconds"),
        ("weights: {stage_in: .nan}", "weights.stage_in"),
        ("topology_keys: zone", "topology_keys: a list is needed, like [a, b] (got 'zone')"),
        ("topology_keys: [a, b, a]", "topology_keys: a, b, a: every level needs a key of its own"),
        ("topology_keys: ['']", "topology_keys.0: a qualified name is needed, like"),
        ("first_backoff_seconds: 20", "first_backoff_seconds 20 is more than max_backoff_seconds 10"),
        ("scheduler_name: a b", "scheduler_name: a qualified name is needed, like"),
        ("profiles: [{scheduler_name: ' '}]", "profiles.0.scheduler_name: a qualified name is needed"),
        ("lease_name: ''", "lease_name: a name in lower case letters"),
        ("lease_namespace: ''", "lease_namespace: a name in lower case letters"),
        ("weights:\n  gpu_fit: 1\n  gpu_fit: 2", "is not valid YAML at line 3, column 3: 'gpu_fit' is given twice"),
        ("extender_key: k.pem", "extender_certificate and extender_key must be given together"),
        ("{extender_key: k, extender_certificate: c}", "extender_certificate is given, but extender"),
        ("weights: {gpuFit: 1}", "weights.gpuFit: there is no such setting; is gpu_fit meant? (got 1)"),
        ("binds-in-flight: 1", "binds-in-flight: there is no such setting; is binds_in_flight meant?"),
        (
            "profiles: [{scheduler_name: a, weights: {sprad: 1}}]",
            "profiles.0.weights.sprad: there is no such",
        ),
        ("profiles: [{scheduler_name: a, wieghts: {}}]", "wieghts: there is no such setting; is weights meant?"),
        ("profiles: [{}]", "settings: profiles.0.scheduler_name: it must be given"),
        ("profiles: [null]", "profiles.0: a mapping is needed, like {name: value} (got None)"),
        ("kind: KubeSchedulerConfiguration", "kind: this is a file of settings, not an object of the API"),
        ("weights: null", "settings: weights: a mapping is needed, like {name: value} (got None)"),
        ("binds_in_flight: yes", "binds_in_flight: a number is needed, not yes or no (got True)"),
        ("binds_in_flight: 1.5", "binds_in_flight: a whole number is needed (got 1.5)"),
        ("weights: {balance: on}", "weights.balance: a number is needed, not yes or no (got True)"),
        ("qps: .inf", "qps: a finite number is needed (got inf)"),
        ("qps: .nan", "settings: qps: "),
        ("flush_seconds: 1.0e+30", "flush_seconds: it must be less than or equal to 31536000 (got 1e+30)"),
        ("burst: 99999999999999999999", "burst: it must be less than or equal to 1000000"),
        ("leader_elect: maybe", "leader_elect: true or false is needed (got 'maybe')"),
        ("metrics: 9090", "metrics: a text is needed; put it in quotes"),
        ("log_format: xml", "log_format: one of console, json is needed (got 'xml')"),
        ("extender_key: [k]", "extender_key: the path of a file is needed"),
        (ALIASES, "settings: a: there is no such setting"),
        ("profiles: [{scheduler_name: headrace-scheduler}]", "settings: profiles: scheduler_name headrace-scheduler"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError) as error:
        load(file, {})
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_SCHEDULER_PROFILES", "packing")
    with pytest.raises(ConfigurationError, match="mappings hold JSON") as error:
        load(None, {})
    assert "\n" not in str(error.value)
    assert '"profiles"' in str(error.value)


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load(tmp_path / "none.yaml", {})


def test_addresses() -> None:
    assert parse_address("127.0.0.1:80") == ("127.0.0.1", 80)
    assert parse_address(":80") == ("127.0.0.1", 80)
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_address("80")
