"""The plugin's decisions: ids, contexts, paths, capabilities, the mount table."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.core import mount_table
from fuse.core.mount_table import Mount, MountTable
from fuse.csi.core import capabilities, decisions, paths, volumes
from fuse.csi.core.capabilities import AccessMode, Capability
from fuse.csi.core.decisions import Step, Wanted
from fuse.csi.core.made import asked_for
from fuse.csi.core.owners import ID_MAX, Owner, id_map, owner_of
from fuse.csi.core.volumes import DatasetRef, parse_volume
from fuse.csi.errors import BadRequest, Conflict, Forbidden, NotPossible

INLINE = {"csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/pod.namespace": "team-a"}


# ---- ids and contexts ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume_id", "context", "root"),
    [
        ("team-a/imagenet", {}, "/team-a/imagenet"),
        ("team-a/imagenet/0123456789abcdef", {}, "/team-a/imagenet"),
        ("team-a/web.text-2", {"subPath": "train/2024/"}, "/team-a/web.text-2/train/2024"),
        ("team-a/imagenet", {"dataset": "imagenet", "namespace": "team-a"}, "/team-a/imagenet"),
        ("9d3c-uid", {"dataset": "imagenet", "namespace": "team-a"}, "/team-a/imagenet"),
        ("csi-0a1b", {**INLINE, "dataset": "imagenet"}, "/team-a/imagenet"),
        ("9d3c-uid", {"dataset": "d", "namespace": "n", "storage.kubernetes.io/csiProvisionerIdentity": "x"}, "/n/d"),
    ],
)
def test_what_an_id_and_its_context_name(volume_id: str, context: dict[str, str], root: str) -> None:
    assert parse_volume(volume_id, context).root == root


HOSTILE_IDS = [
    "../../etc",
    "..",
    ".",
    "/etc/passwd",
    "team-a/../kube-system",
    "team-a/imagenet/../../x",
    "team-a/imagenet/",
    "team-a//imagenet",
    "team-a/imagenet\n",
    "team-a/imagenet\x00",
    "Team-A/imagenet",
    "team-a/imagenet/0123456789ABCDEF",
    "a" * 64 + "/x",
    "team-a/" + "a." * 200 + "a",
    "-rf/x",
    "$(reboot)",
    "a b",
    "ｔeam/x",
    "x" * 10_000,
]


@pytest.mark.parametrize("volume_id", HOSTILE_IDS)
def test_hostile_ids_are_refused_with_one_sentence(volume_id: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_volume(volume_id, {"dataset": "imagenet", "namespace": "team-a"})
    text = str(refused.value)
    assert text.startswith("volume_id ") and "must be" in text
    assert len(text) < 500 and text.isprintable()


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30), st.text(max_size=60))
def test_whatever_parses_stays_inside_its_dataset(volume_id: str, name: str, namespace: str, sub_path: str) -> None:
    try:
        volume = parse_volume(volume_id, {"dataset": name, "namespace": namespace, "subPath": sub_path})
    except BadRequest as refused:
        assert str(refused).isprintable()
        return
    first, second, *rest = volume.root.removeprefix("/").split("/")
    assert (first, second) == (namespace, name)
    assert not {"", ".", ".."} & {first, second, *rest}


@given(st.sampled_from("abc012-./\n\0A%"), st.text(alphabet="abz09-./A\n", max_size=80))
def test_an_accepted_id_never_leads_out(head: str, tail: str) -> None:
    try:
        volumes.check_volume_id(head + tail)
    except BadRequest:
        return
    assert ".." not in (head + tail).split("/")
    assert not (head + tail).startswith("/") and "\n" not in head + tail


@pytest.mark.parametrize(
    ("context", "named"),
    [
        ({"datasett": "x"}, "datasett"),
        ({"dataset": "../x", "namespace": "n"}, "../x"),
        ({"dataset": "x", "namespace": "a/b"}, "a/b"),
        ({"dataset": "x"}, "namespace"),
        ({}, "dataset"),
        ({"dataset": "x", "namespace": "n", "subPath": "../y"}, "../y"),
        ({"dataset": "x", "namespace": "n", "subPath": "/etc"}, "/etc"),
        ({"dataset": "x", "namespace": "n", "subPath": "a//b"}, "a//b"),
        ({"dataset": "x", "namespace": "n", "subPath": "a\x00b"}, "x00"),
        ({"dataset": "x", "namespace": "n", "subPath": "é" * 200}, "subPath"),
    ],
)
def test_a_context_that_is_wrong_is_named(context: dict[str, str], named: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_volume("some-id", context)
    assert named in str(refused.value)


def test_an_id_and_a_context_of_two_datasets_are_refused() -> None:
    with pytest.raises(BadRequest, match="two datasets"):
        parse_volume("team-a/imagenet", {"dataset": "secrets", "namespace": "team-b"})


def test_an_inline_volume_reaches_its_own_namespace_only() -> None:
    with pytest.raises(Forbidden, match="team-b/imagenet"):
        parse_volume("csi-1", {**INLINE, "dataset": "imagenet", "namespace": "team-b"})
    with pytest.raises(Forbidden):
        parse_volume("team-b/imagenet", INLINE)
    with pytest.raises(BadRequest, match="podInfoOnMount"):
        parse_volume("csi-1", {"csi.storage.k8s.io/ephemeral": "true", "dataset": "d", "namespace": "team-b"})
    # A PersistentVolume is the administrator's word.
    assert parse_volume("x", {"dataset": "d", "namespace": "team-b", "csi.storage.k8s.io/pod.namespace": "team-a"})


def test_made_ids_are_accepted_and_differ_by_claim() -> None:
    dataset = DatasetRef("team-a", "imagenet")
    one, two = volumes.made_volume_id(dataset, "pvc-1"), volumes.made_volume_id(dataset, "pvc-2")
    assert one != two
    assert volumes.check_volume_id(one) == volumes.check_volume_id(two) == dataset


def test_datasets_whose_names_run_together_have_different_keys() -> None:
    assert DatasetRef("a", "b-c").key != DatasetRef("a-b", "c").key


# ---- paths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "",
        "relative/path",
        "/var/lib/kubelet",
        "/var/lib/kubelet/",
        "/var/lib/kubelet/../../etc",
        "/var/lib/kubelet/pods/..",
        "/var/lib/kubelet/pods//x",
        "/var/lib/kubelet/pods/x/",
        "/var/lib/kubelet/./x",
        "/var/lib/kubelet-other/x",
        "/var/lib/kubelet/a\nb",
        "/var/lib/kubelet/" + "a/" * 3000 + "a",
    ],
)
def test_paths_outside_are_refused(path: str) -> None:
    with pytest.raises(BadRequest, match=r"^target_path"):
        paths.below("/var/lib/kubelet", path, "target_path")


def test_a_path_inside_is_taken_relative() -> None:
    assert paths.below("/var/lib/kubelet/", "/var/lib/kubelet/pods/x/mount", "target_path") == "pods/x/mount"


@pytest.mark.parametrize(
    ("path", "pod"),
    [
        ("/var/lib/kubelet/pods/uid-1/volumes/kubernetes.io~csi/v/mount", "uid-1"),
        ("/var/lib/kubelet/plugins/kubernetes.io/csi/x/globalmount", ""),
        ("/elsewhere/pods/uid-1/volumes/mount", ""),
        ("/var/lib/kubelet/pods/uid-1", ""),
    ],
)
def test_a_target_tells_whose_pod_it_is(path: str, pod: str) -> None:
    assert paths.pod_of("/var/lib/kubelet/", path) == pod


# ---- capabilities --------------------------------------------------------------------------------


def _capability(mode: AccessMode = AccessMode.MULTI_NODE_MULTI_WRITER, **other: object) -> Capability:
    return Capability(is_block=False, is_mount=True, mode=mode, **other)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capability", "named"),
    [
        (None, "volume_capability"),
        (Capability(is_block=True, is_mount=False, mode=AccessMode.SINGLE_NODE_WRITER), "block"),
        (Capability(is_block=False, is_mount=False, mode=AccessMode.SINGLE_NODE_WRITER), "mount"),
        (_capability(AccessMode.UNKNOWN), "UNKNOWN"),
        (_capability(AccessMode.SINGLE_NODE_SINGLE_WRITER), "SINGLE_NODE_SINGLE_WRITER"),
        (_capability(fs_type="ext4"), "ext4"),
        (_capability(mount_flags=["noatime"]), "noatime"),
    ],
)
def test_what_cannot_be_mounted_is_named(capability: Capability | None, named: str) -> None:
    with pytest.raises(BadRequest, match=named):
        capabilities.check(capability)


@pytest.mark.parametrize(
    ("mode", "readonly", "writable", "expected"),
    [
        (AccessMode.MULTI_NODE_READER_ONLY, False, True, True),
        (AccessMode.SINGLE_NODE_READER_ONLY, False, False, True),
        (AccessMode.MULTI_NODE_MULTI_WRITER, True, True, True),
        (AccessMode.MULTI_NODE_MULTI_WRITER, True, False, True),
        (AccessMode.MULTI_NODE_MULTI_WRITER, False, True, False),
        (AccessMode.SINGLE_NODE_WRITER, False, True, False),
    ],
)
def test_who_gets_a_read_only_mount(mode: AccessMode, readonly: bool, writable: bool, expected: bool) -> None:
    volume = parse_volume("n/d", {})
    assert capabilities.is_read_only(volume, _capability(mode), readonly=readonly, writable=writable) is expected


def test_writing_to_a_read_only_dataset_is_refused_but_for_inline_volumes() -> None:
    with pytest.raises(NotPossible, match="n/d is read-only"):
        capabilities.is_read_only(parse_volume("n/d", {}), _capability(), readonly=False, writable=False)
    inline = parse_volume("csi-1", {**INLINE, "dataset": "d"})
    writer = _capability(AccessMode.SINGLE_NODE_WRITER)
    assert capabilities.is_read_only(inline, writer, readonly=False, writable=False)


# ---- the mount table -----------------------------------------------------------------------------

LINES = [
    "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw",
    "40 22 0:50 / /run/h/mount rw,nosuid,nodev shared:9 - fuse.headrace headrace rw,user_id=0",
    r"41 22 0:50 /n/d\040x /pods/with\040space ro,nosuid shared:2 master:1 - fuse.headrace headrace rw",
    "42 41 0:51 /n/d /pods/a rw - fuse.headrace headrace rw",
    "43 42 0:52 /n/d /pods/a rw - fuse.headrace headrace rw",
    "broken line",
]


def test_the_mount_table_is_read() -> None:
    table = mount_table.parse(LINES)
    assert len(table.mounts) == 5
    (bind,) = table.at("/pods/with space")
    assert (bind.device, bind.root, bind.read_only, bind.is_ours) == ("0:50", "/n/d x", True, True)
    assert [mount.device for mount in table.at("/pods/a")] == ["0:51", "0:52"]
    assert len(table.of_device("0:50")) == 2
    assert not table.at("/")[0].is_ours


def _mount(device: str = "0:50", root: str = "/n/d", read_only: bool = True, fs_type: str = "fuse.headrace") -> Mount:
    return Mount(device=device, root=root, point="/t", read_only=read_only, fs_type=fs_type)


WANTED = Wanted("0:50", "/n/d", read_only=True)


def test_what_publishing_does_at_a_target() -> None:
    assert decisions.at_publish("/t", [], WANTED) is Step.MOUNT
    assert decisions.at_publish("/t", [_mount()], WANTED) is Step.NOTHING
    assert decisions.at_publish("/t", [_mount(device="0:49")], WANTED) is Step.REPLACE
    assert decisions.at_publish("/t", [_mount(device="0:49"), _mount()], WANTED) is Step.NOTHING
    assert decisions.at_publish("/t", [_mount(root="/n/d//deleted")], WANTED) is Step.REPLACE
    with pytest.raises(Conflict, match="for writing"):
        decisions.at_publish("/t", [_mount(read_only=False)], WANTED)
    with pytest.raises(Conflict, match="/n/other"):
        decisions.at_publish("/t", [_mount(root="/n/other")], WANTED)
    with pytest.raises(NotPossible, match="tmpfs"):
        decisions.at_publish("/t", [_mount(fs_type="tmpfs")], WANTED)


@pytest.mark.parametrize("dead", [_mount(device="0:49", read_only=False), _mount(device="0:49", root="/n/x//deleted")])
def test_a_dead_mount_is_not_replaced_by_another_volume(dead: Mount) -> None:
    with pytest.raises(Conflict, match="unpublish it first"):
        decisions.at_publish("/t", [dead], WANTED)


def test_a_target_is_inside_no_volume() -> None:
    table = MountTable((Mount("0:1", "/", "/", False, "ext4"), _mount()))
    decisions.check_outside("/t", table.around("/t"))
    decisions.check_outside("/tt/x", table.around("/tt/x"))
    with pytest.raises(BadRequest, match="inside the dataset mounted at '/t'"):
        decisions.check_outside("/t/x", table.around("/t/x"))


def test_what_unpublishing_does_at_a_target() -> None:
    assert decisions.at_unpublish("/t", []) == 0
    assert decisions.at_unpublish("/t", [_mount(), _mount()]) == 2
    with pytest.raises(NotPossible, match="stays"):
        decisions.at_unpublish("/t", [_mount(), _mount(fs_type="tmpfs")])
    with pytest.raises(NotPossible, match="65"):
        decisions.at_unpublish("/t", [_mount()] * 65)


# ---- whose files they are ----------------------------------------------------------------------------------


def test_a_pods_group_goes_before_the_volumes() -> None:
    assert owner_of({}, "") == Owner(0, 0)
    assert owner_of({"uid": "7", "gid": "8"}, "") == Owner(7, 8)
    assert owner_of({"uid": "7", "gid": "8"}, "9") == Owner(7, 9)
    assert owner_of({"gid": "8"}, "0") == Owner(0, 0)
    assert owner_of({"uid": str(ID_MAX)}, "") == Owner(ID_MAX, 0)


@pytest.mark.parametrize("text", ["-1", "x", "+1", "٣", str(ID_MAX + 1), "99999999999", "1.0", " 1"])
def test_what_is_no_number_of_a_user_is_refused_by_its_field(text: str) -> None:
    for field, arguments in (("uid", ({"uid": text}, "")), ("gid", ({"gid": text}, "")), ("volume_mount", ({}, text))):
        with pytest.raises(BadRequest, match=field):
            owner_of(*arguments)


@pytest.mark.parametrize("shown_id", [0, 1, 2, 1000, ID_MAX - 1, ID_MAX])
def test_a_map_changes_two_ids_and_knows_all_others(shown_id: int) -> None:
    lines = [tuple(map(int, line.split())) for line in id_map(shown_id).splitlines()]
    assert sum(count for *_, count in lines) == ID_MAX + 1 and all(count > 0 for *_, count in lines)

    def mapped(number: int) -> int:
        (found,) = [outside + number - inside for inside, outside, count in lines if inside <= number < inside + count]
        return found

    assert (mapped(0), mapped(shown_id)) == (shown_id, 0)
    for number in {1, 2, 999, 1000, 1001, 65534, ID_MAX - 1, ID_MAX} - {0, shown_id}:
        assert mapped(number) == number


def test_a_storage_classes_owner_reaches_its_volumes() -> None:
    wanted, parameters = [_capability()], {"namespace": "n", "dataset": "d", "uid": "7"}
    made = asked_for("pvc-1", parameters, wanted, required_bytes=0, limit_bytes=0, has_source=False)
    assert made.context == parameters
    assert owner_of(made.context, "") == Owner(7, 0)
    with pytest.raises(BadRequest, match="uid"):
        asked_for("pvc-1", {**parameters, "uid": "me"}, wanted, required_bytes=0, limit_bytes=0, has_source=False)
