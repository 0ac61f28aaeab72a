"""What data a pod names: scheduler/core/data_request.py, and which claims are Datasets (volume_table.py)."""

import pytest

from api import names
from kube.identity import ObjectMeta
from kube.objects import (
    CSIPersistentVolumeSource,
    CSIVolumeSource,
    PersistentVolume,
    PersistentVolumeClaim,
    PersistentVolumeClaimSpec,
    PersistentVolumeSpec,
    Volume,
)
from scheduler.core.data_request import (
    BadDataRequest,
    DataRequest,
    inline_datasets,
    merge,
    parse_checkpoint,
    parse_datasets,
)
from scheduler.core.volume_table import BOUND_ANNOTATION, UNBOUND, VolumeTable


def test_a_full_entry() -> None:
    text = '[{"name":"imagenet","namespace":"x","paths":["train/"],"required":true,"maxWaitSeconds":60}]'
    assert parse_datasets(text, "default") == (DataRequest("x", "imagenet", ("train/",), True, 60.0),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not valid JSON"),
        ("{}", "must be a JSON list"),
        ("[{}]", '[0] must be an object with a "name"'),
        ('[{"name":"a","paths":"x"}]', "[0].paths 'x' must be a list"),
        ('[{"name":"a","required":"yes"}]', "[0].required 'yes' must be true or false"),
        ('[{"name":"a","maxWaitSeconds":-1}]', "[0].maxWaitSeconds -1 must be a number"),
        ('[{"name":"a","namespace":3}]', "[0].namespace 3 must be a string"),
        ("[" + ",".join(['{"name":"a"}'] * 65) + "]", "at most 64"),
    ],
)
def test_what_is_wrong_is_said(text: str, says: str) -> None:
    with pytest.raises(BadDataRequest, match=r".*") as error:
        parse_datasets(text, "default")
    assert says in str(error.value)
    assert names.DATASETS_ANNOTATION in str(error.value)


def test_checkpoint_nodes() -> None:
    assert parse_checkpoint('{"b":2,"a":1}') == (("a", 1), ("b", 2))
    with pytest.raises(BadDataRequest):
        parse_checkpoint('{"a":"many"}')


def test_an_inline_volume_names_its_dataset() -> None:
    volume = Volume(name="v", csi=CSIVolumeSource(driver=names.CSI_DRIVER, volume_attributes={"dataset": "d"}))
    assert inline_datasets([volume, Volume(name="w")], "ns") == (DataRequest("ns", "d"),)


def test_an_inline_volume_without_a_dataset_is_refused() -> None:
    with pytest.raises(BadDataRequest, match="name the Dataset"):
        inline_datasets([Volume(name="v", csi=CSIVolumeSource(driver=names.CSI_DRIVER))], "ns")


def test_the_annotation_refines_what_a_volume_mentions() -> None:
    merged = merge([DataRequest("n", "d"), DataRequest("n", "d", ("a/",), True, 5.0), DataRequest("n", "e")])
    assert merged == (DataRequest("n", "d", ("a/",), True, 5.0), DataRequest("n", "e"))


def _claim(name: str, volume: str = "", storage_class: str = "standard", **more: object) -> PersistentVolumeClaim:
    spec = PersistentVolumeClaimSpec(volume_name=volume, storage_class_name=storage_class, **more)  # type: ignore[arg-type]
    annotations = {BOUND_ANNOTATION: "yes"} if volume else {}
    return PersistentVolumeClaim(metadata=ObjectMeta(name=name, namespace="ns", annotations=annotations), spec=spec)


def _table(claim: PersistentVolumeClaim, volume: PersistentVolume | None = None) -> VolumeTable:
    table = VolumeTable()
    table.put_claim(claim)
    if volume is not None:
        table.put_volume(volume)
    return table


def _volume(**spec: object) -> PersistentVolume:
    return PersistentVolume(metadata=ObjectMeta(name="pv"), spec=PersistentVolumeSpec(**spec))  # type: ignore[arg-type]


def test_a_claim_of_our_class_is_the_dataset_of_its_name() -> None:
    table = _table(_claim("imagenet", "pv", names.STORAGE_CLASS), _volume())
    assert table.resolve("ns", ["imagenet"]).data == (DataRequest("ns", "imagenet"),)


def test_a_claim_on_our_driver_is_the_dataset_the_volume_names() -> None:
    csi = CSIPersistentVolumeSource(driver=names.CSI_DRIVER, volume_attributes={"dataset": "d", "namespace": "o"})
    assert _table(_claim("c", "pv"), _volume(csi=csi)).resolve("ns", ["c"]).data == (DataRequest("o", "d"),)


def test_a_missing_claim_is_said_in_kube_schedulers_words() -> None:
    assert VolumeTable().resolve("ns", ["c"]).refusal == 'persistentvolumeclaim "c" not found'


def test_an_unbound_claim_waits() -> None:
    assert _table(_claim("c", storage_class=names.STORAGE_CLASS)).resolve("ns", ["c"]).refusal == UNBOUND


@pytest.mark.parametrize(
    ("claim", "volume", "says"),
    [
        (_claim("c", storage_class="wait"), None, "WaitForFirstConsumer"),
        (_claim("c", "pv", access_modes=["ReadWriteOncePod"]), _volume(nfs={"x": 1}), "ReadWriteOncePod"),
        (_claim("c", "pv"), _volume(), "the kind of its volume"),
    ],
)
def test_what_is_not_evaluated_refuses_the_pod(
    claim: PersistentVolumeClaim, volume: PersistentVolume | None, says: str
) -> None:
    assert says in (_table(claim, volume).resolve("ns", ["c"]).refusal or "")


def test_a_driver_that_limits_volumes_somewhere_refuses_the_pod_and_others_do_not() -> None:
    table = _table(_claim("c", "pv"), _volume(csi=CSIPersistentVolumeSource(driver="ebs.csi.aws.com")))
    assert table.resolve("ns", ["c"]).refusal is None
    table.put_limits("n1", frozenset({"ebs.csi.aws.com"}))
    assert "attach limit of CSI driver ebs.csi.aws.com" in (table.resolve("ns", ["c"]).refusal or "")
    table.put_limits("n1", frozenset())
    assert table.resolve("ns", ["c"]).refusal is None


def test_a_volumes_zones_come_along() -> None:
    labels = {"topology.kubernetes.io/zone": "a__b", "topology.kubernetes.io/region": "r__"}
    volume = PersistentVolume(metadata=ObjectMeta(name="pv", labels=labels), spec=PersistentVolumeSpec(nfs={"x": 1}))
    resolved = _table(_claim("c", "pv"), volume).resolve("ns", ["c"])
    assert resolved.zones == (("topology.kubernetes.io/zone", frozenset({"a", "b"})),)


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (_claim("c", "gone"), 'persistentvolume "gone" not found'),
        (
            PersistentVolumeClaim(
                metadata=ObjectMeta(name="c", namespace="ns"), spec=PersistentVolumeClaimSpec(volume_name="pv")
            ),
            UNBOUND,
        ),
    ],
)
def test_a_claim_is_bound_when_its_volume_is_there_and_the_controller_said_so(
    claim: PersistentVolumeClaim, says: str
) -> None:
    assert _table(claim, _volume(nfs={"x": 1})).resolve("ns", ["c"]).refusal == says


def test_a_bound_volumes_affinity_comes_along() -> None:
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": ["n1"]}
    affinity = {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}}
    resolved = _table(_claim("c", "pv"), _volume(local={"path": "/x"}, node_affinity=affinity)).resolve("ns", ["c"])
    assert len(resolved.terms) == 1
    assert resolved.refusal is None
