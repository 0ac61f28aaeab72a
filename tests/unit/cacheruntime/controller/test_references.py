"""Who uses which Dataset, of objects as the API server tells of them."""

import json
import random
from typing import Any

import msgspec

from api import names
from cacheruntime.controller.references import (
    SHOWN_USERS,
    Item,
    Job,
    Pod,
    References,
    dataset_of,
    shown,
)
from kube.storage_objects import PersistentVolume

KINDS: dict[str, type[Item]] = {"pod": Pod, "job": Job, "volume": PersistentVolume}


def made(kind: str, name: str, body: dict[str, Any], namespace: str = "ns", **meta: Any) -> Any:
    metadata = {"name": name, "namespace": "" if kind == "volume" else namespace, **meta}
    return msgspec.convert({"metadata": metadata, **body}, KINDS[kind])


def a_pod(name: str, *volumes: dict[str, Any], phase: str = "Running", job: str = "", text: str = "") -> Pod:
    owners = [{"kind": "TrainingJob", "name": job, "controller": True}] if job else []
    annotations = {names.DATASETS_ANNOTATION: text} if text else {}
    body = {"spec": {"volumes": list(volumes)}, "status": {"phase": phase}}
    pod: Pod = made("pod", name, body, ownerReferences=owners, annotations=annotations)
    return pod


def claim(name: str) -> dict[str, Any]:
    return {"name": "v", "persistentVolumeClaim": {"claimName": name}}


def inline(driver: str = names.CSI_DRIVER, **attributes: str) -> dict[str, Any]:
    return {"name": "v", "csi": {"driver": driver, "volumeAttributes": attributes}}


def a_volume(name: str, claimed: str, dataset: str, namespace: str = "ns") -> PersistentVolume:
    attributes = {"dataset": dataset, "namespace": "ns"}
    spec = {"claimRef": {"namespace": namespace, "name": claimed}}
    csi = {"driver": names.CSI_DRIVER, "volumeHandle": "u", "volumeAttributes": attributes}
    volume: PersistentVolume = made("volume", name, {"spec": spec | {"csi": csi}})
    return volume


def a_job(name: str, *datasets: str, ended: str = "") -> Job:
    conditions = [{"type": ended, "status": "True"}] if ended else [{"type": "Failed", "status": "False"}]
    spec = {"datasets": [{"name": one} for one in datasets]}
    job: Job = made("job", name, {"spec": spec, "status": {"conditions": conditions}})
    return job


def users(references: References, dataset: str = "d") -> list[str]:
    return [f"{one.kind} {one.name}" for one in references.users(("ns", dataset))]


def test_a_pod_uses_a_dataset_by_claim_inline_volume_or_annotation_until_it_has_ended() -> None:
    references = References()
    assert references.see(a_volume("pv", "c", "d")) == set(), "nobody uses the claim yet"
    ways = {
        "claim": a_pod("claim", claim("c")),
        "inline": a_pod("inline", inline(dataset="d")),
        "named": a_pod("named", inline(dataset="d", namespace="ns")),
        "text": a_pod("text", text='[{"name": "d"}]'),
        "generic": a_pod("generic", {"name": "v", "ephemeral": {}}),
    }
    references.see(a_volume("pv2", "generic-v", "d"))
    for pod in ways.values():
        assert references.see(pod) == {("ns", "d")}
    assert users(references) == [f"Pod {name}" for name in sorted(ways)]
    assert references.see(a_pod("claim", claim("c"), phase="Succeeded")) == {("ns", "d")}
    assert references.see(a_pod("inline", inline(dataset="d"), phase="Failed")) == {("ns", "d")}
    assert references.forget(Pod, ("ns", "named")) == {("ns", "d")}
    assert users(references) == ["Pod generic", "Pod text"]
    assert users(references, "e") == []


def test_what_is_no_dataset_of_ours_counts_for_nothing() -> None:
    references = References()
    references.see(a_volume("pv", "c", "d", namespace="elsewhere"))
    for text in ("", "no json", '"d"', '[{"name": 7}]', "[" * 5000, json.dumps([{"name": "d", "namespace": "other"}])):
        references.see(a_pod(f"p{len(text)}", inline("other.csi", dataset="d"), claim("c"), text=text))
    assert users(references) == []


def test_a_claim_that_is_bound_later_makes_its_pods_users() -> None:
    references = References()
    references.see(a_pod("p", claim("c")))
    assert users(references) == []
    assert references.see(a_volume("pv", "c", "d")) == {("ns", "d")}
    assert users(references) == ["Pod p"]
    assert references.see(a_volume("pv", "c", "e")) == {("ns", "d"), ("ns", "e")}
    assert (users(references), users(references, "e")) == ([], ["Pod p"])
    assert references.forget(PersistentVolume, ("", "pv")) == {("ns", "e")}
    assert references.keys(PersistentVolume) == [] and users(references, "e") == []


def test_a_job_uses_what_it_names_until_it_has_ended_and_stands_for_its_pods() -> None:
    references = References()
    references.see(a_volume("pv", "d", "d"))
    references.see(a_job("j", "d"))
    references.see(a_pod("j-0", claim("d"), job="j"))
    references.see(a_pod("other", claim("d"), job="k"))
    assert users(references) == ["TrainingJob j", "Pod other"]
    assert references.see(a_job("j", "d", ended="Failed")) == {("ns", "d")}
    assert users(references) == ["Pod j-0", "Pod other"], "its pods may live longer than it"


def test_volumes_name_datasets_by_attribute_or_handle() -> None:
    def volume(driver: str, handle: str, **attributes: str) -> PersistentVolume:
        csi = {"driver": driver, "volumeHandle": handle, "volumeAttributes": attributes}
        found: PersistentVolume = made("volume", "pv", {"spec": {"csi": csi}})
        return found

    assert dataset_of(volume(names.CSI_DRIVER, "ns/d")) == ("ns", "d")
    assert dataset_of(volume(names.CSI_DRIVER, "ns/d/0123456789abcdef")) == ("ns", "d")
    assert dataset_of(volume(names.CSI_DRIVER, "u", dataset="d", namespace="ns")) == ("ns", "d")
    assert dataset_of(volume(names.CSI_DRIVER, "u")) is None
    assert dataset_of(volume("other.csi", "ns/d")) is None
    assert dataset_of(made("volume", "pv", {"spec": {"hostPath": {"path": "/"}}})) is None


def test_a_message_names_the_first_and_counts_the_rest() -> None:
    references = References()
    for number in range(SHOWN_USERS + 3):
        references.see(a_pod(f"p{number:02}", inline(dataset="d")))
    told = shown(references.users(("ns", "d")))
    assert told.startswith("Pod ns/p00, Pod ns/p01") and told.endswith("Pod ns/p09 and 3 more")


def test_the_index_says_what_the_objects_say_whatever_came_before() -> None:
    """Against a look through all objects, after each of many changes; and what changed is always told."""
    rng = random.Random(7)
    references, there = References(), dict[tuple[str, str], Any]()
    datasets = [("ns", name) for name in "abc"]
    before = {one: references.users(one) for one in datasets}
    for _ in range(3000):
        kind, name = rng.choice(["pod", "job", "volume"]), rng.choice("xyz")
        if rng.random() < 0.3:
            there.pop((kind, name), None)
            changed = references.forget(KINDS[kind], ("" if kind == "volume" else "ns", name))
        else:
            item: Any = a_volume(name, rng.choice("vw"), rng.choice("abc"))
            if kind == "pod":
                volumes = [claim(rng.choice("vw")), inline(dataset=rng.choice("abc"))][: rng.randrange(3)]
                item = a_pod(name, *volumes, phase=rng.choice(["Running", "Failed"]), job=rng.choice(["", "x"]))
            elif kind == "job":
                item = a_job(name, *rng.sample("abc", 2), ended=rng.choice(["", "Succeeded"]))
            there[kind, name] = item
            changed = references.see(item)
        fresh = References()
        for one in there.values():
            fresh.see(one)
        after = {one: references.users(one) for one in datasets}
        assert after == {one: fresh.users(one) for one in datasets}
        # A job's pods are told of or not as the job goes and comes; its Dataset is told of then.
        assert {one for one in datasets if after[one] != before[one]} <= changed
        before = after
