"""core/csi_migration.py: in-tree volumes are translated as csi-translation-lib v0.36.3 translates them."""

from typing import Any

import pytest

from kube.identity import ObjectMeta
from kube.objects import Volume
from kube.storage_objects import PersistentVolume, PersistentVolumeSpec
from scheduler.core.csi_migration import (
    PLUGINS,
    Untranslatable,
    inline_handle,
    plugin_of,
    translated_terms,
    volume_handle,
)

ZONE, OLD_ZONE = "topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"
REGION, OLD_REGION = "topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"
GCE = PLUGINS["kubernetes.io/gce-pd"]
EBS = PLUGINS["kubernetes.io/aws-ebs"]
GCE_KEY = "topology.gke.io/zone"


def _item(key: str, *values: str, operator: str = "In") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


def _terms(*terms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"matchExpressions": list(items)} for items in terms]


def _volume(
    labels: dict[str, str] | None = None, terms: list[dict[str, Any]] | None = None, **source: object
) -> PersistentVolume:
    affinity = None if terms is None else {"required": {"nodeSelectorTerms": terms}}
    spec = PersistentVolumeSpec(node_affinity=affinity, **(source or {"gce_persistent_disk": {"pdName": "d"}}))  # type: ignore[arg-type]
    return PersistentVolume(metadata=ObjectMeta(name="pv", labels=labels or {}), spec=spec)


@pytest.mark.parametrize(
    ("source", "driver", "handle"),
    [
        ({"aws_elastic_block_store": {"volumeID": "vol-1"}}, "ebs.csi.aws.com", "vol-1"),
        ({"aws_elastic_block_store": {"volumeID": "aws://eu-1a/vol-1"}}, "ebs.csi.aws.com", "vol-1"),
        ({"aws_elastic_block_store": {"volumeID": "aws:///vol-1"}}, "ebs.csi.aws.com", "vol-1"),
        ({"aws_elastic_block_store": {"volumeID": "anything"}}, "ebs.csi.aws.com", "anything"),
        (
            {"gce_persistent_disk": {"pdName": "d"}},
            "pd.csi.storage.gke.io",
            "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/d",
        ),
        ({"azure_disk": {"diskURI": "/d", "kind": "managed"}}, "disk.csi.azure.com", "/d"),
        ({"azure_disk": {"diskURI": "/d"}}, "disk.csi.azure.com", "/d"),
        ({"cinder": {"volumeID": "c"}}, "cinder.csi.openstack.org", "c"),
        ({"portworx_volume": {"volumeID": "p"}}, "pxd.portworx.com", "p"),
    ],
)
def test_a_volume_has_its_drivers_name_inline_and_by_claim(source: dict[str, Any], driver: str, handle: str) -> None:
    inline, volume = Volume(name="v", **source), _volume(**source)
    plugin = plugin_of(inline)
    assert plugin is not None
    assert plugin is plugin_of(volume.spec)
    assert (plugin.driver, inline_handle(plugin, inline), volume_handle(plugin, volume)) == (driver, handle, handle)


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ({ZONE: "eu-1-a"}, "zones/eu-1-a"),
        ({OLD_ZONE: "eu-1-b", ZONE: "eu-1-a"}, "zones/eu-1-b"),
        ({OLD_ZONE: "", ZONE: "eu-1-a"}, "zones/eu-1-a"),
        ({ZONE: "eu-1-a__eu-1-b"}, "regions/eu-1"),
        ({}, "zones/UNSPECIFIED"),
    ],
)
def test_a_gce_disks_name_has_the_zone_or_region_of_its_labels(labels: dict[str, str], place: str) -> None:
    assert volume_handle(GCE, _volume(labels)) == f"projects/UNSPECIFIED/{place}/disks/d"


@pytest.mark.parametrize(
    ("volume", "says"),
    [
        (_volume(aws_elastic_block_store={"volumeID": "aws://z/disk-1"}), r"Invalid format for AWS volume \(disk-1\)"),
        (_volume(azure_disk={"diskURI": "d", "kind": "Shared"}), r"kind\(Shared\) is not supported in csi migration"),
        (_volume({ZONE: "a__b"}), r"expected: {locale}-{region}-{zone}, got: a"),
        (_volume({ZONE: "eu-1-a__us-1-a"}), "eu-1, us-1 are more than one region"),
    ],
)
def test_what_the_driver_has_no_name_for_says_so(volume: PersistentVolume, says: str) -> None:
    plugin = plugin_of(volume.spec)
    assert plugin is not None
    with pytest.raises(Untranslatable, match=says):
        translated_terms(plugin, volume)


@pytest.mark.parametrize(
    ("labels", "terms", "expected"),
    [
        pytest.param({}, None, None, id="no affinity, no labels: every node"),
        pytest.param({ZONE: "a-b-c"}, None, _terms([_item(GCE_KEY, "a-b-c")]), id="zones of labels"),
        pytest.param(
            {ZONE: "x-y-b__x-y-a"}, None, _terms([_item(GCE_KEY, "x-y-a", "x-y-b")]), id="several zones in one label"
        ),
        pytest.param({ZONE: ""}, None, None, id="an empty label names none"),
        pytest.param(
            {ZONE: "l"}, _terms([_item(ZONE, "a")]), _terms([_item(GCE_KEY, "a")]), id="affinity before labels"
        ),
        pytest.param(
            {ZONE: "l"},
            _terms([_item("disk", "ssd")], []),
            _terms([_item("disk", "ssd"), _item(GCE_KEY, "l")], [_item(GCE_KEY, "l")]),
            id="labels' zones in every term",
        ),
        pytest.param(
            {},
            _terms([_item(ZONE, "a"), _item(OLD_ZONE, "b")]),
            _terms([_item(GCE_KEY, "a"), _item(OLD_ZONE, "b")]),
            id="new key before old",
        ),
        pytest.param(
            {},
            _terms([_item(OLD_ZONE, "a"), _item(OLD_REGION, "r")]),
            _terms([_item(GCE_KEY, "a"), _item(REGION, "r")]),
            id="old zone and region",
        ),
        pytest.param(
            {}, _terms([_item(OLD_REGION, "r")]), _terms([_item(OLD_REGION, "r")]), id="old region without old zone"
        ),
        pytest.param(
            {ZONE: "l"},
            _terms([_item(ZONE, operator="Exists")]),
            _terms([_item(ZONE, operator="Exists"), _item(GCE_KEY, "l")]),
            id="a key without values names no zone",
        ),
    ],
)
def test_affinity_on_nodes_that_migrated(
    labels: dict[str, str], terms: list[dict[str, Any]] | None, expected: list[dict[str, Any]] | None
) -> None:
    assert translated_terms(GCE, _volume(labels, terms)) == expected


def test_affinity_of_drivers_without_zones_of_their_own_stays() -> None:
    terms = _terms([_item(OLD_ZONE, "a")])
    for name in ("kubernetes.io/azure-disk", "kubernetes.io/portworx-volume"):
        plugin = PLUGINS[name]
        volume = _volume({ZONE: "z"}, terms, **{plugin.field: {}})
        assert translated_terms(plugin, volume) == terms


def test_a_volume_is_not_changed_by_its_translation() -> None:
    terms = _terms([_item(ZONE, "a")], [_item("disk", "ssd")])
    volume = _volume({ZONE: "z"}, terms, aws_elastic_block_store={"volumeID": "vol-1"})
    assert translated_terms(EBS, volume) == _terms([_item(EBS.topology_key, "a")], [_item("disk", "ssd")])
    assert terms == _terms([_item(ZONE, "a")], [_item("disk", "ssd")])
