"""Objects of KubeDL, Kubeflow and Fluid become ours, and nothing is dropped without a word."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headrace.convert.fields import Fields
from headrace.convert.objects import Converted, convert
from tests.builders.foreign_objects import CRONS, DATA, JOBS


def converted(text: str) -> tuple[dict[str, Any], list[str]]:
    found = convert(list(yaml.safe_load_all(text)))
    return {f"{body['kind']}/{body['metadata']['name']}": body for body in found.bodies}, found.notes


def test_a_kubedl_tfjob_keeps_its_roles_policies_spot_replicas_and_port() -> None:
    bodies, notes = converted(JOBS)
    job = bodies["TrainingJob/mnist"]
    spec = job["spec"]
    assert job["metadata"]["annotations"] == {"team": "vision"}
    assert spec["framework"] == "TensorFlow" and spec["tensorflow"] == {"port": 2229}
    assert spec["runPolicy"] == {"cleanPodPolicy": "None", "successPolicy": "AllWorkers"}
    worker = spec["replicaSpecs"]["Worker"]
    assert worker["replicas"] == 3 and worker["restartPolicy"] == "ExitCode"
    assert worker["spotReplicaSpec"] == {"spotReplicaNumber": 1, "priorityClassName": "spot"}
    assert "schedulerName" not in worker["template"]["spec"]
    assert any("schedulerName volcano" in note for note in notes)
    assert any("kubedl.io/tensorboard-config" in note for note in notes)


def test_a_kubeflow_job_keeps_its_run_policy_and_says_what_it_loses() -> None:
    bodies, notes = converted(JOBS)
    job = bodies["TrainingJob/bert"]
    assert job["metadata"] == {"name": "bert", "namespace": "nlp"}
    assert job["spec"]["pytorch"] == {"nprocPerNode": 8, "elastic": {"min": 1, "max": 4}}
    assert job["spec"]["runPolicy"] == {
        "backoffLimit": 3,
        "suspend": True,
        "cleanPodPolicy": "None",
        "schedulingPolicy": {
            "queue": "research",
            "priorityClassName": "high",
            "timeoutSeconds": 60,
        },
    }
    assert {role: one["replicas"] for role, one in job["spec"]["replicaSpecs"].items()} == {"Master": 1, "Worker": 4}
    assert any("minAvailable was left out" in note for note in notes)


def test_the_default_of_each_systems_clean_pod_policy_is_written_out() -> None:
    text = JOBS.replace("  cleanPodPolicy: None\n", "")
    bodies, notes = converted(text)
    assert any("image needs sshd" in note for note in notes)
    assert bodies["TrainingJob/mnist"]["spec"]["runPolicy"]["cleanPodPolicy"] == "Running"
    assert bodies["TrainingJob/horovod"]["spec"]["runPolicy"]["cleanPodPolicy"] == "None"
    assert bodies["TrainingJob/horovod"]["spec"]["mpi"] == {"slotsPerWorker": 2}
    assert bodies["TrainingJob/boost"]["spec"]["framework"] == "XGBoost"


def test_a_fluid_dataset_finds_the_runtime_of_its_name() -> None:
    bodies, notes = converted(DATA)
    spec = bodies["Dataset/imagenet"]["spec"]
    assert spec["runtime"] == "imagenet"
    assert [mount["mountPoint"] for mount in spec["mounts"]] == ["oss://images/train", "file:///srv/labels"]
    assert spec["mounts"][0]["encryptOptions"][0]["valueFrom"]["secretKeyRef"] == {"name": "oss", "key": "id"}
    assert spec["mounts"][1]["path"] == "/labels" and spec["mounts"][1]["readOnly"]
    assert any("placement Exclusive" in note for note in notes)
    assert any("dataRestoreLocation" in note for note in notes)
    alone, notes = converted(DATA.split("---")[0])
    assert "runtime" not in alone["Dataset/imagenet"]["spec"] and any("named default" in note for note in notes)


def test_each_path_of_a_tier_becomes_a_level_with_its_own_quota() -> None:
    bodies, notes = converted(DATA)
    spec = bodies["CacheRuntime/imagenet"]["spec"]
    assert [(one["mediumtype"], one["path"], one["quota"]) for one in spec["tieredstore"]["levels"]] == [
        ("MEM", "/dev/shm", "2Gi"),
        ("SSD", "/mnt/a", "10Gi"),
        ("SSD", "/mnt/b", "20Gi"),
        ("HDD", "/mnt/c", str(4 << 30)),
        ("HDD", "/mnt/d", str(4 << 30)),
    ]
    assert spec["nodeSelector"] == {"gpu": "true"} and "fuse" not in spec
    assert spec["worker"] == {"resources": {"requests": {"cpu": "1"}}}
    assert {note for note in notes if note.startswith("JindoRuntime")} == {
        "JindoRuntime imagenet spec.jindoVersion has no counterpart and was left out",
        "JindoRuntime imagenet spec.fuse.args has no counterpart and was left out",
        "JindoRuntime imagenet spec: tieredstore and worker have an effect on nodes with the label "
        "data.headrace.dev/pool: NAMESPACE.NAME of this CacheRuntime only",
    }
    assert bodies["DataLoad/warm"]["spec"]["target"] == [{"path": "/train", "replicas": 2}]


def test_a_claim_as_a_mount_is_told_of_with_what_can_be_done() -> None:
    mounts = [{"mountPoint": "pvc://claim/path", "name": "x"}]
    body = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "Dataset", "metadata": {"name": "x"}}
    (note,) = [one for one in convert([body | {"spec": {"mounts": mounts}}]).notes if "pvc://" in one]
    assert "'pvc://claim/path' has no counterpart" in note and "file:// of where its file system is mounted" in note


def test_clients_of_a_runtime_that_should_outlive_their_pods_are_told_of() -> None:
    for policy, note in (
        ("OnRuntimeDeleted", "cleanPolicy OnRuntimeDeleted was left out: a node's client ends"),
        ("OnDemand", ""),
    ):
        body = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "JindoRuntime", "metadata": {"name": "x"}}
        notes = convert([body | {"spec": {"fuse": {"cleanPolicy": policy}}}]).notes
        assert [note in one for one in notes] == ([True] if note else [])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "runAfter: {kind: DataLoad, name: first, namespace: other}",
            {"kind": "DataLoad", "name": "first", "namespace": "other"},
        ),
        ("runAfter: {apiVersion: data.fluid.io/v1alpha1, kind: DataMigrate, name: first}", None),
    ],
)
def test_what_a_load_runs_after_is_a_load(before: str, after: dict[str, str] | None) -> None:
    bodies, notes = converted(DATA.replace("target:", f"{before}\n  target:"))
    assert bodies["DataLoad/warm"]["spec"].get("runAfter") == after
    assert any("only DataLoads can come first" in note for note in notes) == (after is None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('quotaList: "10Gi,20Gi"', "quotaList: 10Gi"), "2 paths and 1 quotas do not match"),
        (("oss://images/train", "cosn://images"), "mountPoint 'cosn://images' has no counterpart"),
        (("kind: DataLoad", "kind: DataBackup"), "DataBackup warm (data.fluid.io/v1alpha1) is of no kind"),
        (("replicas: 2}", "replicas: 99}"), "DataLoad warm: spec.target.0.replicas"),
    ],
)
def test_what_cannot_be_converted_is_named(change: tuple[str, str], said: str) -> None:
    assert change[0] in DATA
    _, notes = converted(DATA.replace(*change))
    assert any(said in note for note in notes), notes


def test_documents_that_are_no_objects_are_named_too() -> None:
    assert convert([None, 3, "text"]) == Converted([], ["document 2 is no object", "document 3 is no object"])
    specs: list[Any] = [None, [], "text", {"pytorchReplicaSpecs": {"Worker": {"template": "no"}}}]
    malformed = [
        {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "x"}, "spec": spec}
        for spec in specs
    ]
    found = convert(malformed)
    assert not found.bodies and len(found.notes) >= len(malformed)


def test_the_input_is_not_changed() -> None:
    documents = list(yaml.safe_load_all(JOBS + "---\n" + DATA))
    before = copy.deepcopy(documents)
    convert(documents)
    assert documents == before


scalars = st.one_of(st.integers(), st.text(min_size=1), st.booleans())


@given(st.dictionaries(st.text(min_size=1), scalars, max_size=8), st.lists(st.text(min_size=1), max_size=4))
def test_every_field_is_carried_over_or_told_of(source: dict[str, Any], known: list[str]) -> None:
    notes: list[str] = []
    target: dict[str, Any] = {}
    fields = Fields("x", source, notes)
    fields.copy(target, *known)
    fields.finish()
    told = {note.removeprefix("x.").removesuffix(" has no counterpart and was left out") for note in notes}
    assert set(target) | told == set(source)
    assert not set(target) & told


def test_crons_and_jobs_with_a_cron_policy_become_cron_training_jobs() -> None:
    bodies, notes = converted(CRONS)
    assert set(bodies) == {"CronTrainingJob/nightly", "CronTrainingJob/weekly"}
    nightly = bodies["CronTrainingJob/nightly"]["spec"]
    template = nightly.pop("jobTemplate")
    assert nightly == {
        "schedule": "30 2 * * *",
        "concurrencyPolicy": "Replace",
        "deadline": "2030-12-31T00:00:00Z",
        "successfulJobsHistoryLimit": 5,
        "failedJobsHistoryLimit": 5,
    }
    assert template["metadata"] == {"labels": {"team": "vision"}}
    assert template["spec"]["framework"] == "TensorFlow"
    assert template["spec"]["replicaSpecs"]["Worker"]["replicas"] == 2
    weekly = bodies["CronTrainingJob/weekly"]["spec"]
    assert (weekly["schedule"], weekly["concurrencyPolicy"]) == ("@weekly", "Forbid")
    assert weekly["failedJobsHistoryLimit"] == 100, "KubeDL keeps all unless told"
    assert weekly["jobTemplate"]["spec"]["replicaSpecs"]["Master"]["replicas"] == 1
    assert any(note.startswith("Cron serve spec: template.kind Inference is no training job") for note in notes)
    assert any("Cron serve: spec.jobTemplate: Field required; the object was left out" in note for note in notes)
    assert any("schedule is in UTC here" in note for note in notes)
    assert not any("cronPolicy" in note and "no counterpart" in note for note in notes)


def test_a_cron_whose_workload_has_one_name_forbids_a_second_run() -> None:
    text = CRONS.replace("metadata: {labels: {team: vision}}", "metadata: {name: fixed}")
    bodies, _ = converted(text)
    assert bodies["CronTrainingJob/nightly"]["spec"]["concurrencyPolicy"] == "Forbid"


def job_of(kind: str, spec: str, api: str = "kubeflow.org/v1") -> tuple[dict[str, Any], list[str]]:
    """One job's spec, converted."""
    body = {"apiVersion": api, "kind": kind, "metadata": {"name": "x"}, "spec": yaml.safe_load(spec)}
    found = convert([body])
    return (found.bodies[0]["spec"] if found.bodies else {}), found.notes


POD = "template: {spec: {containers: [{name: c, image: i}]}}"


@pytest.mark.parametrize(
    ("api", "kind", "roles", "policies"),
    [
        ("training.kubedl.io/v1alpha1", "TFJob", "tf/PS,Worker", {"PS": "ExitCode", "Worker": "ExitCode"}),
        (
            "training.kubedl.io/v1alpha1",
            "PyTorchJob",
            "pytorch/Master,Worker",
            {"Master": "ExitCode", "Worker": "OnFailure"},
        ),
        ("training.kubedl.io/v1alpha1", "MPIJob", "mpi/Launcher,Worker", {"Launcher": "Never", "Worker": "Never"}),
        ("training.kubedl.io/v1alpha1", "XGBoostJob", "xgb/Master", {"Master": None}),
        ("kubeflow.org/v1", "TFJob", "tf/Worker", {"Worker": "Never"}),
        ("kubeflow.org/v1", "PyTorchJob", "pytorch/Master", {"Master": "OnFailure"}),
        ("kubeflow.org/v1", "PaddleJob", "paddle/Worker", {"Worker": "OnFailure"}),
        ("kubeflow.org/v1", "JAXJob", "jax/Worker", {"Worker": "Never"}),
        ("kubeflow.org/v1", "XGBoostJob", "xgb/Master", {"Master": "Never"}),
    ],
)
def test_the_default_restart_policy_of_each_system_is_written_out(
    api: str, kind: str, roles: str, policies: dict[str, str | None]
) -> None:
    stem, _, names = roles.partition("/")
    listed = ", ".join(f"{name}: {{{POD}}}" for name in names.split(","))
    spec, notes = job_of(kind, f"{stem}ReplicaSpecs: {{{listed}}}", api)
    found = {role: one.get("restartPolicy") for role, one in spec["replicaSpecs"].items()}
    assert found == policies, notes


def test_roles_are_known_in_any_case_and_unknown_ones_are_told_of() -> None:
    spec, notes = job_of("TFJob", f"tfReplicaSpecs: {{ps: {{{POD}}}, WORKER: {{{POD}}}, AIMaster: {{{POD}}}}}")
    assert set(spec["replicaSpecs"]) == {"PS", "Worker"}
    assert any("TensorFlow has no role AIMaster" in note for note in notes)


def test_torchruns_processes_a_node_are_auto_unless_told_as_at_kubeflow() -> None:
    spec, _ = job_of("PyTorchJob", f"pytorchReplicaSpecs: {{Worker: {{{POD}}}}}")
    assert spec["pytorch"]["nprocPerNode"] == "auto"
    spec, _ = job_of(
        "PyTorchJob", f"{{elasticPolicy: {{nProcPerNode: 4}}, pytorchReplicaSpecs: {{Worker: {{{POD}}}}}}}"
    )
    assert spec["pytorch"]["nprocPerNode"] == 4
    spec, _ = job_of("PyTorchJob", f"pytorchReplicaSpecs: {{Worker: {{{POD}}}}}", "training.kubedl.io/v1alpha1")
    assert "pytorch" not in spec


def test_options_of_mpi_operator_and_of_kubedls_older_mpi_jobs_are_carried_over() -> None:
    roles = f"mpiReplicaSpecs: {{Launcher: {{{POD}}}, Worker: {{{POD}}}}}"
    spec, notes = job_of(
        "MPIJob",
        f"{{sshAuthMountPath: /home/u/.ssh, mpiImplementation: Intel, launcherCreationPolicy: AtStartup, {roles}}}",
        "kubeflow.org/v2beta1",
    )
    assert spec["mpi"] == {"implementation": "Intel", "sshAuthMountPath": "/home/u/.ssh"}
    assert any("launcherCreationPolicy AtStartup" in note for note in notes)
    spec, _ = job_of("MPIJob", f"{{mpiDistribution: IntelMPI, {roles}}}", "training.kubedl.io/v1alpha1")
    assert spec["mpi"] == {"implementation": "Intel"}


def test_an_elastic_paddle_job_stays_elastic() -> None:
    spec, notes = job_of(
        "PaddleJob",
        f"{{elasticPolicy: {{minReplicas: 1, maxReplicas: 3, maxRestarts: 5}}, "
        f"paddleReplicaSpecs: {{Worker: {{{POD}}}}}}}",
    )
    assert spec["paddle"]["elastic"] == {"min": 1, "max": 3}
    assert any("elasticPolicy.maxRestarts has no counterpart" in note for note in notes)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (f"{{runPolicy: forever, pytorchReplicaSpecs: {{Worker: {{{POD}}}}}}}", "spec.runPolicy is no object"),
        (f"{{pytorchReplicaSpecs: {{Master: null, Worker: [1], master: {{{POD}}}}}}}", "Worker has no counterpart"),
        ("pytorchReplicaSpecs: [1, 2]", "spec.pytorchReplicaSpecs is no object"),
        (
            f"{{elasticPolicy: {{rdzvConf: [a]}}, pytorchReplicaSpecs: {{Worker: {{{POD}}}}}}}",
            "rdzvConf[0] is no object",
        ),
    ],
)
def test_what_has_the_wrong_shape_is_told_of(spec: str, said: str) -> None:
    _, notes = job_of("PyTorchJob", spec)
    assert any(said in note for note in notes), notes


def test_metadata_of_the_wrong_shape_and_odd_quotas_end_no_conversion() -> None:
    for metadata in (
        "text",
        [1],
        {"name": "x", "annotations": [1]},
        {"name": 3},
        {"name": "x", "annotations": {1: "a"}},
    ):
        convert([{"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": metadata, "spec": {}}])
        convert([{"apiVersion": "data.fluid.io/v1alpha1", "kind": "JindoRuntime", "metadata": metadata, "spec": {}}])
    levels = [{"mediumtype": "SSD", "path": "/a,/b", "quota": "lots"}]
    body = {"apiVersion": "data.fluid.io/v1alpha1", "kind": "JindoRuntime", "metadata": {"name": "x"}}
    found = convert([body | {"spec": {"tieredstore": {"levels": levels}}}])
    assert any("'lots' is not a quantity" in note for note in found.notes)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KNOWN_FIELDS = (
    "pytorchReplicaSpecs", "tfReplicaSpecs", "mpiReplicaSpecs", "Worker", "template", "spec", "containers", "ports",
    "runPolicy", "schedulingPolicy", "elasticPolicy", "rdzvConf", "cronPolicy", "schedule", "mounts", "mountPoint",
    "tieredstore", "levels", "path", "quota", "quotaList", "target", "runAfter", "workload", "metadata", "replicas",
    "labels", "annotations", "name", "spotReplicaSpec", "worker", "fuse", "dataset", "nprocPerNode",
)  # fmt: skip
theirs = st.recursive(
    json_like,
    lambda inner: st.dictionaries(st.sampled_from(KNOWN_FIELDS), inner, max_size=5) | st.lists(inner, max_size=2),
    max_leaves=20,
)


@given(
    st.sampled_from(
        [
            ("kubeflow.org/v1", "PyTorchJob"),
            ("kubeflow.org/v1", "MPIJob"),
            ("training.kubedl.io/v1alpha1", "TFJob"),
            ("apps.kubedl.io/v1alpha1", "Cron"),
            ("data.fluid.io/v1alpha1", "Dataset"),
            ("data.fluid.io/v1alpha1", "DataLoad"),
            ("data.fluid.io/v1alpha1", "JindoRuntime"),
        ]
    ),
    theirs,
    theirs,
)
def test_no_shape_of_an_object_breaks_the_conversion(kind: tuple[str, str], metadata: Any, spec: Any) -> None:
    found = convert([{"apiVersion": kind[0], "kind": kind[1], "metadata": metadata, "spec": spec}])
    assert found.bodies or found.notes


def elastic_pytorch(policy: str) -> tuple[dict[str, Any], list[str]]:
    spec, notes = job_of("PyTorchJob", f"{{elasticPolicy: {{{policy}}}, pytorchReplicaSpecs: {{Worker: {{{POD}}}}}}}")
    return spec["pytorch"], notes


def test_the_place_of_the_rendezvous_is_kept_or_told_of() -> None:
    found, notes = elastic_pytorch("rdzvHost: etcd, rdzvPort: 2379, rdzvBackend: etcd")
    assert found["elastic"] == {"rdzvBackend": "etcd", "rdzvEndpoint": "etcd:2379"}
    assert any("rdzvHost etcd is taken for a store outside the job" in note for note in notes)
    found, notes = elastic_pytorch("minReplicas: 1, rdzvPort: 29411")
    assert found["port"] == 29411 and found["elastic"] == {"min": 1}
    found, notes = elastic_pytorch("minReplicas: 1, rdzvHost: etcd")
    assert found["elastic"] == {"min": 1}
    assert any("rdzvHost was left out: it needs rdzvPort" in note for note in notes)


def test_a_job_its_own_operator_managed_is_managed_here() -> None:
    """With the name of another controller nobody would run it, or say why."""
    for manager, kept in (
        ("kubeflow.org/training-operator", {}),
        ("kueue.x-k8s.io/multikueue", {"managedBy": "kueue.x-k8s.io/multikueue"}),
    ):
        spec, notes = job_of(
            "PyTorchJob", f"{{runPolicy: {{managedBy: {manager}}}, pytorchReplicaSpecs: {{Worker: {{{POD}}}}}}}"
        )
        assert spec["runPolicy"] == {"cleanPodPolicy": "None", **kept}
        assert any(f"managedBy {manager} was left out" in note for note in notes) == (not kept)
