"""What data a pod names: scheduler/core/data_request.py, and which claims are Datasets (volume_table.py)."""

import pytest

from api import names
from kube.objects import (
    CSIVolumeSource,
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
