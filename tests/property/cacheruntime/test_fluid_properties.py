"""Fluid's texts: whatever they are, they are understood or refused in one sentence, and quotas are kept."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cacheruntime.fluid.core import answers, config, plan
from cacheruntime.fluid.errors import FluidError
from cacheruntime.worker.settings import parse_tier

WHO = config.DatasetName("ns", "name")
text = st.text(max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
level = st.fixed_dictionaries(
    {},
    optional={
        "mountPaths": st.lists(text, max_size=3) | st.none(),
        "mediumType": st.sampled_from(["MEM", "SSD", "HDD", "", "x"]),
        "quotas": st.lists(st.sampled_from(["1Gi", "10G", "64Mi", "0", "", "x", "1e9"]), max_size=3),
        "high": st.sampled_from(["", "0.9", "1", "0", "x", "inf"]),
        "low": st.sampled_from(["", "0.1", "0.95", "-1"]),
    },
)
mount = st.fixed_dictionaries(
    {"mountPoint": st.sampled_from(["s3://b", "pvc://x", "dataset://a/b", "file:///d", "x", ""])},
    optional={
        "name": text,
        "path": text,
        "options": json_values,
        "encryptOptions": json_values,
        "readOnly": st.booleans(),
    },
)
component = st.fixed_dictionaries(
    {}, optional={"name": text, "replicas": st.integers(0, 9), "tieredStoreLevels": st.lists(level, max_size=2)}
)
runtime = st.fixed_dictionaries(
    {},
    optional={
        "mounts": st.lists(mount, max_size=3),
        "accessModes": st.lists(st.sampled_from(["ReadOnlyMany", "ReadWriteMany", "x"]), max_size=2),
        "worker": component,
        "client": component | json_values,
        "targetPath": text,
    },
)


@given(runtime | json_values)
def test_a_config_is_understood_or_refused_in_one_sentence(body: Any) -> None:
    try:
        found = config.parse_config(json.dumps(body))
        item = plan.dataset_of(found, WHO, "/etc/fluid/secrets")
        plan.tier_arguments(found.worker, WHO, "pod")
    except FluidError as error:
        assert error.message and "\n" not in error.message
        return
    assert json.loads(answers.mounted(item)) == {"mounted": [one.ufs_path for one in found.mounts]}


@given(st.lists(st.tuples(st.from_regex(r"/[a-z]{1,4}(/[a-z]{1,3})?", fullmatch=True), st.integers(1, 16)), min_size=1))
def test_paths_and_copies_of_a_load_stay_together(targets: list[tuple[str, int]]) -> None:
    paths, copies = zip(*targets, strict=True)
    task = config.load_task(
        {config.LOAD_PATHS: ":".join(paths), config.LOAD_REPLICAS: ":".join(map(str, copies))},
    )
    assert list(task.targets) == targets


@given(st.integers(1, 1 << 50))
def test_a_tier_and_its_temporary_room_never_exceed_the_quota(quota_bytes: int) -> None:
    worker = config.Component.model_validate(
        {"tieredStoreLevels": [{"mountPaths": ["/c"], "mediumType": "SSD", "quotas": [str(quota_bytes)]}]}
    )
    try:
        (argument,) = plan.tier_arguments(worker, WHO, "pod")
    except FluidError:
        assert quota_bytes <= plan.TEMPORARY_BYTES
        return
    kept_bytes = parse_tier(argument).quota_bytes
    assert kept_bytes > 0
    assert kept_bytes + max(kept_bytes * plan.TEMPORARY_PERCENT // 100, plan.TEMPORARY_BYTES) <= quota_bytes


@given(st.integers(0, 1 << 63))
def test_sizes_are_in_fluids_spelling_and_near_the_truth(size_bytes: int) -> None:
    written = re.fullmatch(r"([0-9]+\.[0-9]{2})([KMGTPE]i)?B", answers.binary_size(size_bytes))
    assert written is not None
    factor = 1024 ** ("KMGTPE".index(written[2][0]) + 1 if written[2] else 0)
    assert abs(float(written[1]) * factor - size_bytes) <= 0.005 * factor + 1e-9 * size_bytes
