"""What the shell writes and reads on disk: records, hosts files, specs, mount tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from headrace.node.core.environment import KeyedObjects, PodFacts
from headrace.node.core.pod_spec import Container, Pod, PodMeta, PodSpec, PodStatus, VolumeMount
from headrace.node.errors import ConfigError
from headrace.node.shell.container_spec import HOME, PodPlace, build_spec
from headrace.node.shell.dataset_mounts import is_fuse_mount
from headrace.node.shell.name_service import NameService
from headrace.node.shell.records import PodFolder, PodRecord, all_records
from headrace.node.shell.volumes import VolumePath

RECORD = PodRecord("ns", "p", "u1", "127.16.0.2", 5.0, {"c": (1, 3)})


def named(uid: str, hostname: str, address: str, phase: str = "Running") -> Pod:
    return Pod(
        metadata=PodMeta(name=hostname, namespace="ns", uid=uid),
        spec=PodSpec(hostname=hostname, subdomain="gang"),
        status=PodStatus(phase=phase, pod_ip=address),
    )


def test_records_survive_and_are_listed(tmp_path: Path) -> None:
    PodFolder(tmp_path, "u1").create(RECORD, "p")
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / ".pod.json").write_text("{")
    assert list(all_records(tmp_path)) == [RECORD]


def test_attempts_are_counted_from_run_records_and_old_ones_forgotten(tmp_path: Path) -> None:
    folder = PodFolder(tmp_path, "u1").container("c")
    folder.create()
    for attempt in (0, 1, 2, 10):
        folder.file(attempt, "run.json").write_text("{}")
        folder.file(attempt, "log").touch()
    assert folder.attempts() == [0, 1, 2, 10]
    folder.forget_before(2)
    assert folder.attempts() == [1, 2, 10]


def test_a_hosts_file_follows_the_pods_in_place(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.touch()
    inode = file.stat().st_ino
    names = NameService(tmp_path / "no-host-file")
    names.add_local(named("u1", "one", ""), "127.16.0.2", file)
    names.seen(named("u2", "two", "127.17.0.2"))
    assert "127.17.0.2\ttwo.gang.ns.svc.cluster.local" in file.read_text()
    names.seen(named("u2", "two", "127.17.0.2", phase="Succeeded"))
    assert "127.17.0.2" not in file.read_text()
    assert file.stat().st_ino == inode


def spec_of(tmp_path: Path, container: Container, **volumes: VolumePath) -> dict[str, Any]:
    folder = PodFolder(tmp_path, "u1")
    folder.create(RECORD, "p")
    pod = Pod(metadata=PodMeta(name="p", namespace="ns", uid="u1"), spec=PodSpec(containers=[container]))
    place = PodPlace(folder, PodFacts("n", "127.0.0.1", "127.16.0.2", {}), RECORD.gpus, Path("/venv/bin"))
    return build_spec(pod, container, place, objects=KeyedObjects({}, {}), volumes=volumes, attempt=0)


def test_a_container_without_a_command_is_refused_with_the_field(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^spec.containers\[0\].command must be set"):
        spec_of(tmp_path, Container(name="c", image="python", args=["x"]))


def test_nothing_of_the_agent_s_environment_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENT_SECRET", "x")
    env = spec_of(tmp_path, Container(name="c", command=["true"]))["env"]
    assert env == {
        "PATH": "/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": HOME,
        "HOSTNAME": "p",
        "CUDA_VISIBLE_DEVICES": "1,3",
        "NVIDIA_VISIBLE_DEVICES": "1,3",
    }


def test_sub_paths_stay_inside_their_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "link").symlink_to("/etc")

    def mounted(sub_path: str) -> list[str]:
        mount = VolumeMount(name="v", mount_path="/x", sub_path=sub_path)
        spec = spec_of(tmp_path, Container(name="c", command=["true"], volume_mounts=[mount]), v=VolumePath(volume))
        return [bind["source"] for bind in spec["binds"] if bind["target"] == "/x"]

    assert mounted("a/b") == [str(volume / "a" / "b")]
    for escaping in ("../elsewhere", "link/passwd"):
        with pytest.raises(ConfigError, match="leads out of the volume"):
            mounted(escaping)


def test_a_missing_sub_path_of_a_dataset_is_not_made(tmp_path: Path) -> None:
    mount = VolumeMount(name="v", mount_path="/x", sub_path="no")
    volume = VolumePath(tmp_path, is_dataset=True)
    with pytest.raises(ConfigError, match="'no' does not exist in the volume"):
        spec_of(tmp_path, Container(name="c", command=["true"], volume_mounts=[mount]), v=volume)
    assert not (tmp_path / "no").exists()


def test_only_the_topmost_fuse_mount_counts(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    line = "30 27 0:25 / {} rw - {} source rw\n"
    table.write_text(line.format("/a\\040b", "fuse.headrace") + line.format("/c", "fuse") + line.format("/c", "tmpfs"))
    assert is_fuse_mount(Path("/a b"), table)
    assert not is_fuse_mount(Path("/c"), table)
    assert not is_fuse_mount(Path("/a"), table)
