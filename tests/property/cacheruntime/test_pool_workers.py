"""Whatever a CacheRuntime says and nodes are labelled with: the DaemonSets that are planned keep the node safe."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from api import names
from api.cacheruntime_v1alpha1 import CacheRuntime
from cacheruntime.controller import pool_plan, pool_workers
from cacheruntime.worker.settings import parse_tier
from tests.unit.cacheruntime.controller.test_pool_workers import FOLDERS, WHERE, installed, seen, spec_of, worker_of

Body = dict[str, Any]
LABELS = ["team.fast", "team.slow", "Team_1", "x"]
quantities = st.sampled_from(["0", "1", "-1", "1Gi", "200Gi", "1e3", "lots", "", 5, "9E"])
marks = st.none() | st.sampled_from(["0.95", "0.5", "1", "0", "1.1", "nan", "-0.5", "x", ".9", "1e-9"])
level = st.fixed_dictionaries(
    {
        "mediumtype": st.sampled_from(["MEM", "SSD", "HDD"]),
        "path": st.sampled_from([*FOLDERS, "/dev/shm", "/etc", "x", "", "/mnt/nvme0/..", "//", "/a:b,c"]),
        "quota": quantities,
        "high": marks,
        "low": marks,
    }
)
maps = st.dictionaries(
    st.sampled_from(["team", "app.kubernetes.io/name", names.POOL_LABEL, "a/b"]), st.text(max_size=3)
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3) | quantities,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["requests", "limits", "memory", "cpu"]), inner, max_size=3)
    ),
    max_leaves=6,
)
specs = st.fixed_dictionaries(
    {},
    optional={
        "tieredstore": st.fixed_dictionaries({"levels": st.lists(level, max_size=8)}),
        "worker": st.fixed_dictionaries(
            {},
            optional={
                "resources": st.dictionaries(st.sampled_from(["requests", "limits", "claims"]), json_like, max_size=2),
                "tolerations": st.lists(st.just({"key": "k"}), max_size=2),
                "podMetadata": st.fixed_dictionaries({}, optional={"labels": maps, "annotations": maps}),
            },
        ),
    },
)


@given(specs, specs, st.sets(st.sampled_from(LABELS)), st.sets(st.sampled_from(LABELS)))
def test_every_label_has_one_daemon_set_that_is_a_copy_of_the_installed_one(
    fast: Body, slow: Body, labels: set[str], before: set[str]
) -> None:
    runtimes = [
        CacheRuntime.model_validate({"metadata": {"namespace": "team", "name": name}, "spec": spec})
        for name, spec in (("fast", fast), ("slow", slow))
    ]
    pools = tuple(pool_workers.daemon_set(label, installed(), None) for label in sorted(before))
    found = pool_plan.plan(seen(*runtimes, labels=tuple(labels), pools=pools), WHERE)

    kept = before & labels
    assert set(found.apply) <= labels and labels - kept <= set(found.apply), "no labelled node is without a worker"
    assert {one["metadata"]["labels"][names.POOL_LABEL] for one in found.delete} == before - labels
    assert labels - set(found.apply) <= set(found.problems), "what is left as it is has a reason"
    called = {body["metadata"]["name"] for body in found.apply.values()}
    assert len(called) == len(found.apply)
    for label, body in found.apply.items():
        _is_safe(label, body)


def _is_safe(label: str, body: Body) -> None:
    base = installed()
    assert re.fullmatch(r"headrace-pool-[a-z0-9]([-a-z0-9]*[a-z0-9])?", body["metadata"]["name"])
    spec, theirs = spec_of(body), spec_of(base)
    assert spec["nodeSelector"][names.POOL_LABEL] == label
    assert body["spec"]["selector"]["matchLabels"].items() <= body["spec"]["template"]["metadata"]["labels"].items()
    assert base["spec"]["selector"]["matchLabels"].items() <= body["spec"]["selector"]["matchLabels"].items()
    for field in ("serviceAccountName", "securityContext", "priorityClassName"):
        assert spec[field] == theirs[field]
    allowed = {*FOLDERS, *(one["hostPath"]["path"] for one in theirs["volumes"] if "hostPath" in one)}
    assert {one["hostPath"]["path"] for one in spec["volumes"] if "hostPath" in one} <= allowed
    worker = worker_of(body)
    for field in ("image", "command", "env", "securityContext"):
        assert worker[field] == worker_of(base)[field]
    tiers = [word.partition("=")[2] for word in worker["args"] if word.startswith("--tier=")]
    assert tiers
    if "$(" not in tiers[0]:
        parsed = [parse_tier(one) for one in tiers]
        assert len({one.directory for one in parsed}) == len(parsed)
        mounts = [one["mountPath"] for one in worker["volumeMounts"]]
        assert all(any(one.directory.is_relative_to(mount) for mount in mounts) for one in parsed)


@given(st.text(min_size=1, max_size=63), st.text(min_size=1, max_size=63))
def test_two_labels_never_share_a_daemon_set(one: str, other: str) -> None:
    assert (pool_workers.name_of(one) == pool_workers.name_of(other)) == (one == other)
