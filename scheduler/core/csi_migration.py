"""Volumes of in-tree plugins as their CSI drivers see them: handle, and node affinity by the driver's own topology.

Owns the translation, for the plugins kube-scheduler translates. Pure; does not know which node migrated what
(core/volume_table.py). The rules are those of k8s.io/csi-translation-lib v0.36.3 (its file is named at each), and which
plugins take part is kube-scheduler 1.36's: volumebinding/binder.go isCSIMigrationOnForPlugin for affinity,
nodevolumelimits/utils.go isCSIMigrationOn for attach limits, the same five in both. azureFile and vsphereVolume are
translated by kubelets and attachers only: to the scheduler they stay what is written in them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

from kube.storage_objects import PersistentVolume

ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"
OLD_ZONE_LABEL = "failure-domain.beta.kubernetes.io/zone"
OLD_REGION_LABEL = "failure-domain.beta.kubernetes.io/region"
# plugins/const.go: one label names several zones.
ZONE_SEPARATOR = "__"
UNSPECIFIED = "UNSPECIFIED"

NodeSelectorTerms = Sequence[Mapping[str, Any]]
_EBS_VOLUME = re.compile(r"vol-[^/]*")


class Untranslatable(Exception):
    """A volume its CSI driver has no name for; says why, in csi-translation-lib's words."""


@dataclass(frozen=True, slots=True)
class InTreePlugin:
    """An in-tree plugin and the driver that took its place.

    `field`: its source in a volume; `handle`: of a source and the zones its PersistentVolume's labels name, the
    driver's name for the volume; `topology_key`: the node label by which the driver knows zones, "" where affinity
    stays as it is.
    """

    name: str
    field: str
    driver: str
    handle: Callable[[Mapping[str, Any], Sequence[str]], str]
    topology_key: str = ""

    def source(self, holder: Any) -> Mapping[str, Any] | None:
        """Its source in a pod's volume or a PersistentVolume's spec, if it is one of this plugin."""
        found: Mapping[str, Any] | None = getattr(holder, self.field)
        return found


def _by_key(key: str) -> Callable[[Mapping[str, Any], Sequence[str]], str]:
    return lambda source, zones: str(source.get(key) or "")


def _ebs(source: Mapping[str, Any], zones: Sequence[str]) -> str:
    """aws_ebs.go KubernetesVolumeIDToEBSVolumeID: `aws://<zone>/<id>` is `<id>`, anything else is taken as it is."""
    written = str(source.get("volumeID") or "")
    if not written.startswith("aws://"):
        return written
    found = unquote(urlsplit(written).path).strip("/")
    if not _EBS_VOLUME.fullmatch(found):
        raise Untranslatable(f"Invalid format for AWS volume ({found})")
    return found


def _gce(source: Mapping[str, Any], zones: Sequence[str]) -> str:
    """gce_pd.go TranslateInTreePVToCSI: several zones make a regional disk."""
    name = source.get("pdName") or ""
    if len(zones) > 1:
        return f"projects/{UNSPECIFIED}/regions/{_gce_region(zones)}/disks/{name}"
    return f"projects/{UNSPECIFIED}/zones/{(zones[0] if zones else '') or UNSPECIFIED}/disks/{name}"


def _gce_region(zones: Sequence[str]) -> str:
    """gce_pd.go gceGetRegionFromZones."""
    regions = set()
    for zone in zones:
        parts = zone.split("-")
        if len(parts) != 3:
            raise Untranslatable(
                "failed to get region from zones: zone in unexpected format, expected: {locale}-{region}-{zone}, "
                f"got: {zone}"
            )
        regions.add("-".join(parts[:2]))
    if len(regions) != 1:
        raise Untranslatable(f"failed to get region from zones: {', '.join(sorted(regions))} are more than one region")
    return regions.pop()


def _azure_disk(source: Mapping[str, Any], zones: Sequence[str]) -> str:
    """azure_disk.go: only managed disks; a source that does not say is one."""
    kind = source.get("kind")
    if kind is not None and str(kind).lower() != "managed":
        raise Untranslatable(f"kind({kind}) is not supported in csi migration")
    return str(source.get("diskURI") or "")


PLUGINS: Mapping[str, InTreePlugin] = {
    plugin.name: plugin
    for plugin in (
        InTreePlugin(
            "kubernetes.io/aws-ebs",
            "aws_elastic_block_store",
            "ebs.csi.aws.com",
            _ebs,
            "topology.ebs.csi.aws.com/zone",
        ),
        # azure_disk.go leaves node affinity alone.
        InTreePlugin("kubernetes.io/azure-disk", "azure_disk", "disk.csi.azure.com", _azure_disk),
        InTreePlugin(
            "kubernetes.io/cinder",
            "cinder",
            "cinder.csi.openstack.org",
            _by_key("volumeID"),
            "topology.cinder.csi.openstack.org/zone",
        ),
        InTreePlugin(
            "kubernetes.io/gce-pd", "gce_persistent_disk", "pd.csi.storage.gke.io", _gce, "topology.gke.io/zone"
        ),
        # portworx.go leaves node affinity alone.
        InTreePlugin("kubernetes.io/portworx-volume", "portworx_volume", "pxd.portworx.com", _by_key("volumeID")),
    )
}
# Provisioners with a translation that no node counts (isCSIMigrationOn), so their volumes have no limit.
NEVER_COUNTED = frozenset({"kubernetes.io/azure-file", "kubernetes.io/vsphere-volume"})


def plugin_of(holder: Any) -> InTreePlugin | None:
    """The plugin of a pod's volume or a PersistentVolume's spec; None for all other kinds of volumes."""
    return next((plugin for plugin in PLUGINS.values() if plugin.source(holder) is not None), None)


def inline_handle(plugin: InTreePlugin, volume: Any) -> str:
    """The driver's name for a volume written in a pod. Raises Untranslatable."""
    return plugin.handle(plugin.source(volume) or {}, ())


def volume_handle(plugin: InTreePlugin, volume: PersistentVolume) -> str:
    """The driver's name for a PersistentVolume. Raises Untranslatable."""
    labels = volume.metadata.labels
    # gce_pd.go asks for the old label first, and for the new one where that is absent or empty.
    zones = (labels.get(OLD_ZONE_LABEL) or labels.get(ZONE_LABEL, "")).split(ZONE_SEPARATOR)
    return plugin.handle(plugin.source(volume.spec) or {}, zones)


def required_terms(volume: PersistentVolume) -> NodeSelectorTerms | None:
    """The node affinity a volume has as it is written; None: every node will do."""
    required = (volume.spec.node_affinity or {}).get("required")
    return None if required is None else required.get("nodeSelectorTerms") or ()


def translated_terms(plugin: InTreePlugin, volume: PersistentVolume) -> NodeSelectorTerms | None:
    """The node affinity it has on nodes that migrated the plugin. Raises Untranslatable.

    in_tree_volume.go translateTopologyFromInTreeToCSI: the zone key becomes the driver's, and where the affinity names
    no zone, those of the volume's labels are added to every term. The old region key becomes the new one.
    """
    volume_handle(plugin, volume)  # what cannot be named is not translated at all
    terms = required_terms(volume)
    if not plugin.topology_key:
        return terms
    zone_key, region_key = _topology_labels(volume, terms or ())
    renamed = {}
    if _values(terms or (), zone_key):
        renamed[zone_key] = plugin.topology_key
    else:
        terms = _with_zones(terms, plugin.topology_key, volume.metadata.labels.get(zone_key, ""))
    if region_key == OLD_REGION_LABEL and _values(terms or (), region_key):
        renamed[region_key] = REGION_LABEL
    return terms if terms is None or not renamed else [_renamed(term, renamed) for term in terms]


def _topology_labels(volume: PersistentVolume, terms: NodeSelectorTerms) -> tuple[str, str]:
    """The zone and region keys a volume uses, by its affinity, else by its labels (getTopologyLabel)."""
    keys = {item.get("key") for term in terms for item in term.get("matchExpressions") or ()}
    for held in (keys, volume.metadata.labels):
        if ZONE_LABEL in held:
            return ZONE_LABEL, REGION_LABEL
        if OLD_ZONE_LABEL in held:
            return OLD_ZONE_LABEL, OLD_REGION_LABEL
    return ZONE_LABEL, REGION_LABEL


def _values(terms: NodeSelectorTerms, key: str) -> set[str]:
    """All values named with a key, whatever the operator (getTopologyValues)."""
    return {
        value
        for term in terms
        for item in term.get("matchExpressions") or ()
        if item.get("key") == key
        for value in item.get("values") or ()
    }


def _with_zones(terms: NodeSelectorTerms | None, key: str, label: str) -> NodeSelectorTerms | None:
    """Terms that ask for a label's zones too (addTopology); the same when it names none."""
    zones = sorted({zone for part in label.split(ZONE_SEPARATOR) if (zone := part.strip())})
    if not zones:
        return terms
    asked = {"key": key, "operator": "In", "values": zones}
    return [{**term, "matchExpressions": [*(term.get("matchExpressions") or ()), asked]} for term in terms or ({},)]


def _renamed(term: Mapping[str, Any], keys: Mapping[str, str]) -> Mapping[str, Any]:
    expressions = [{**item, "key": keys.get(item["key"], item["key"])} for item in term.get("matchExpressions") or ()]
    return {**term, "matchExpressions": expressions}
