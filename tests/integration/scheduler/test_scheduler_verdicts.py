"""Our verdicts against kube-scheduler's own plugins, run as a library (tests/oracle); and that this would notice."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.cluster.binaries import ORACLE, require
from headrace.errors import HeadraceError
from scheduler.core import pod_claims, pod_request, pod_terms, requests, volume_binding, volume_table
from scheduler.core.csi_migration import required_terms
from scheduler.core.pod_index import PodIndex
from scheduler.core.pod_terms import NOBODY
from scheduler.core.volume_table import VolumeTable
from scheduler.plugins import pod_affinity, registry, topology_spread, volume_restrictions
from scheduler.plugins.base import ALL
from tests.oracle.cases import PODS_A_CLUSTER, Judged, differences, judged

CASES = 20_000
NIGHTLY_CASES = 1_000_000


@pytest.fixture(scope="module")
def oracle() -> Path:
    try:
        return require((ORACLE.name,))[ORACLE.name]
    except HeadraceError as error:
        pytest.fail(str(error), pytrace=False)


def _compare(oracle: Path, seed: int, cases: int) -> None:
    clusters = cases // PODS_A_CLUSTER
    feasible = infeasible = 0
    for cluster in judged(oracle, seed, range(clusters)):
        differing = differences(cluster)
        assert not differing, str(differing[0])
        feasible += sum(bool(verdict["feasible"]) for verdict in cluster.verdicts)
        infeasible += sum(not verdict["feasible"] for verdict in cluster.verdicts)
    # A generator of only hopeless, or only easy, pods would prove nothing.
    assert feasible > cases / 5
    assert infeasible > cases / 5


@pytest.mark.timeout(600)
def test_twenty_thousand_verdicts_are_kube_schedulers(oracle: Path) -> None:
    _compare(oracle, 1, CASES)


@pytest.mark.nightly
def test_a_million_verdicts_are_kube_schedulers(oracle: Path) -> None:
    for seed in range(2, 2 + NIGHTLY_CASES // 50_000):
        _compare(oracle, seed, 50_000)


# ---- planted bugs ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample(oracle: Path) -> list[Judged]:
    """Clusters enough for every rule to matter somewhere."""
    # Ports of sidecars need two topics at once, which few of the mixed clusters have.
    few = judged(oracle, 99, range(30), ("init containers", "host ports"))
    return [*judged(oracle, 99, range(160)), *few]


def _is_noticed(sample: list[Judged]) -> bool:
    return any(differences(cluster) for cluster in sample)


def test_without_a_planted_bug_nothing_is_noticed(sample: list[Judged]) -> None:
    assert not _is_noticed(sample)


# RequiredData is ours alone.
KUBES_FILTERS = [factory for factory in registry.FILTERS if factory.__name__ != "RequiredData"]


@pytest.mark.parametrize("factory", KUBES_FILTERS, ids=lambda factory: str(factory().name))
def test_a_filter_that_lets_everything_pass_is_noticed(
    factory: Callable[[], Any], sample: list[Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(factory())
    monkeypatch.setattr(kind, "filter", lambda self, view, pod, rows: None)
    monkeypatch.setattr(kind, "prefilter", lambda self, view, pod: None)
    monkeypatch.setattr(kind, "refusals", lambda self, view, pod: [])
    assert _is_noticed(sample)


@pytest.mark.parametrize("factory", KUBES_FILTERS, ids=lambda factory: str(factory().name))
def test_a_filter_that_refuses_one_node_too_many_is_noticed(
    factory: Callable[[], Any], sample: list[Judged], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(factory())
    right = kind.filter

    def wrong(self: Any, view: Any, pod: Any, rows: Any) -> Any:
        passed = right(self, view, pod, ALL)
        passed = np.ones(view.size, dtype=np.bool_) if passed is None else passed.copy()
        passed[np.flatnonzero(passed)[:1]] = False
        return passed[rows]

    monkeypatch.setattr(kind, "filter", wrong)
    assert _is_noticed(sample)


def _drop_overhead(pod: Any) -> Any:
    return right_requests(type(pod)(metadata=pod.metadata, spec=_without(pod.spec, "overhead"), status=pod.status))


def _without(spec: Any, field: str) -> Any:
    import msgspec

    return msgspec.structs.replace(spec, **{field: type(getattr(spec, field))()})


right_smallest = volume_binding._smallest
right_lacks_affinity = pod_affinity._lacks_affinity
right_requests = requests.pod_requests
PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "in-tree volumes are used by their own zone label where a driver took over": lambda patch: patch.setattr(
        pod_claims, "translated_terms", lambda plugin, volume: required_terms(volume)
    ),
    "a node that did not migrate a plugin is asked by the driver's zone label": lambda patch: patch.setattr(
        volume_binding, "rows_of", lambda view, nodes: np.ones(view.size, dtype=np.bool_)
    ),
    "in-tree disks keep their own names under attach limits": lambda patch: patch.setattr(
        volume_table, "volume_handle", lambda plugin, volume: str(plugin.source(volume.spec))
    ),
    "two claims of a pod may find the same volume": lambda patch: patch.setattr(
        volume_binding, "_smallest", lambda view, claim, chosen: right_smallest(view, claim, ())
    ),
    "attachments nobody's pod explains are not counted": lambda patch: patch.setattr(
        VolumeTable, "attached_to", lambda self, node: iter(())
    ),
    "two readers of a disk are kept apart": lambda patch: patch.setattr(
        volume_restrictions, "conflict", lambda wanted, held: any(disk.key == wanted.key for disk in held)
    ),
    "overhead is not counted": lambda patch: patch.setattr(requests, "pod_requests", _drop_overhead),
    "host ports of sidecars are not seen": lambda patch: patch.setattr(
        pod_request,
        "host_ports",
        lambda spec: tuple(
            (port.host_ip or "0.0.0.0", port.protocol or "TCP", port.host_port)
            for container in spec.containers
            for port in container.ports
            if port.host_port > 0
        ),
    ),
    "pods being deleted count in spread": lambda patch: patch.setattr(
        PodIndex, "_contains", lambda self, pods, identity, is_leaving: self.selects(pods, identity)
    ),
    "spread counts nodes that lack another constraint's label": lambda patch: patch.setattr(
        topology_spread, "_have_all", lambda view, keys: np.ones(view.size, dtype=np.bool_)
    ),
    "a pod does not count itself in spread": lambda patch: patch.setattr(
        pod_terms, "_selects", lambda selector, identity: False
    ),
    "the first of a group that wants itself is refused": lambda patch: patch.setattr(
        pod_affinity, "_lacks_affinity", lambda view, pod: right_lacks_affinity(view, replace(pod, identity=NOBODY))
    ),
    "a held term's namespaceSelector reads the pod's own namespace only": lambda patch: patch.setattr(
        PodIndex,
        "is_about",
        lambda self, held, identity: (
            identity.namespace in held.term.namespaces
            and held.term.selector is not None
            and held.term.selector.matches(identity.labels)
        ),
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_subtle_bug_is_noticed(bug: str, sample: list[Judged], monkeypatch: pytest.MonkeyPatch) -> None:
    PLANTED[bug](monkeypatch)
    assert _is_noticed(sample)
