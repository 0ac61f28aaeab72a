"""MPI: a Launcher runs mpirun, which starts its processes on the workers over ssh.

Owns mpi-operator v2's and Kubeflow Trainer's variables and files: the hostfile in /etc/mpi, the job's ssh keys in
`sshAuthMountPath`, and for OpenMPI `OMPI_MCA_*`, for Intel MPI `I_MPI_*`, for MPICH `HYDRA_*`. Not KubeDL's kubexec.sh:
it needs the right to execute commands in pods. Names of hosts are those of the attempt, so a straggler's mpirun finds
nobody."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from api.training_v1alpha1 import DependsOn, MpiOptions, ReplicaSpec, TrainingJobSpec
from jobcontroller.core.framework import Equipment, Rendezvous, RoleCounts
from jobcontroller.frameworks.base import all_succeeded

LAUNCHER, WORKER = "Launcher", "Worker"
CONFIG_DIRECTORY = "/etc/mpi"
HOSTFILE = "hostfile"
_HOSTFILE_PATH = f"{CONFIG_DIRECTORY}/{HOSTFILE}"
#: a worker that runs may not listen yet, and its name may not be known everywhere yet
_SSH_ARGUMENTS = "-o ConnectionAttempts=10"


class Mpi:
    """`spec.framework: MPI`."""

    name = "MPI"
    roles: tuple[str, ...] | None = (LAUNCHER, WORKER)
    reserved_env = frozenset(
        {
            "OMPI_MCA_orte_default_hostfile",
            "OMPI_MCA_orte_keep_fqdn_hostnames",
            "OMPI_MCA_orte_set_default_slots",
            "OMPI_MCA_plm_rsh_args",
            "I_MPI_HYDRA_HOST_FILE",
            "I_MPI_HYDRA_BOOTSTRAP",
            "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS",
            "I_MPI_PERHOST",
            "HYDRA_HOST_FILE",
            "HYDRA_LAUNCHER",
            "HYDRA_LAUNCHER_EXTRA_ARGS",
            "HYDRA_LAUNCH_EXTRA_ARGS",
        }
    )

    def validate(self, spec: TrainingJobSpec) -> str | None:
        """One launcher, at least one worker, and an end that can come."""
        launcher, worker = spec.replica_specs.get(LAUNCHER), spec.replica_specs.get(WORKER)
        if launcher is None or launcher.replicas != 1:
            found = "missing" if launcher is None else f"there with replicas {launcher.replicas}"
            return f"spec.replicaSpecs.Launcher is {found}; an MPI job has one Launcher, which runs mpirun"
        if worker is None or worker.replicas == 0:
            return "spec.replicaSpecs.Worker has no pods; an MPI job needs at least one Worker for mpirun's processes"
        if spec.run_policy.success_policy == "AllWorkers":
            return (
                "spec.runPolicy.successPolicy AllWorkers never comes true for MPI, whose workers run sshd until the "
                "Launcher is done; use Default"
            )
        if not _options(spec).ssh_auth_mount_path.startswith("/"):
            path = _options(spec).ssh_auth_mount_path
            return f"spec.mpi.sshAuthMountPath {path!r} must be an absolute path, as /root/.ssh"
        return None

    def port(self, spec: TrainingJobSpec) -> int | None:
        """MPI chooses its ports itself."""
        return None

    def with_defaults(self, spec: TrainingJobSpec) -> TrainingJobSpec:
        """The Launcher waits until the workers are ready; a worker without a command runs sshd."""
        replicas = dict(spec.replica_specs)
        launcher, worker = replicas.get(LAUNCHER), replicas.get(WORKER)
        if launcher is not None and not launcher.depends_on and worker is not None:
            waits = [DependsOn(role=WORKER, status="Ready")]
            replicas[LAUNCHER] = launcher.model_copy(update={"depends_on": waits})
        if worker is not None:
            replicas[WORKER] = _with_sshd(worker, _options(spec))
        return spec.model_copy(update={"replica_specs": replicas})

    def env(self, rendezvous: Rendezvous, role: str, index: int) -> dict[str, str]:
        """Only the Launcher's mpirun is told anything; it tells its processes."""
        if role != LAUNCHER:
            return {}
        options = _options(rendezvous.spec)
        ssh = _SSH_ARGUMENTS if options.ssh_port is None else f"{_SSH_ARGUMENTS} -p {options.ssh_port}"
        match options.implementation:
            case "OpenMPI":
                return {
                    "OMPI_MCA_orte_default_hostfile": _HOSTFILE_PATH,
                    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
                    "OMPI_MCA_orte_set_default_slots": str(options.slots_per_worker),
                    "OMPI_MCA_plm_rsh_args": ssh,
                }
            case "Intel":
                return {
                    "I_MPI_HYDRA_HOST_FILE": _HOSTFILE_PATH,
                    "I_MPI_HYDRA_BOOTSTRAP": "ssh",
                    "I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS": ssh,
                    "I_MPI_PERHOST": str(options.slots_per_worker),
                }
            case "MPICH":
                return {
                    "HYDRA_HOST_FILE": _HOSTFILE_PATH,
                    "HYDRA_LAUNCHER": "ssh",
                    "HYDRA_LAUNCHER_EXTRA_ARGS": ssh,
                    # mpi-operator's name; Hydra itself reads the one above.
                    "HYDRA_LAUNCH_EXTRA_ARGS": ssh,
                }

    def equipment(self, rendezvous: Rendezvous) -> Equipment:
        """The hostfile, for the Launcher, and ssh keys for all."""
        options = _options(rendezvous.spec)
        line = "{} slots={}\n" if options.implementation == "OpenMPI" else "{}:{}\n"
        hosts = (rendezvous.host(WORKER, index) for index in range(rendezvous.replicas.get(WORKER, 0)))
        return Equipment(
            config_directory=CONFIG_DIRECTORY,
            config_files={HOSTFILE: "".join(line.format(host, options.slots_per_worker) for host in hosts)},
            config_roles=frozenset({LAUNCHER}),
            ssh_directory=options.ssh_auth_mount_path,
        )

    def succeeded(self, roles: Mapping[str, RoleCounts]) -> bool:
        """The Launcher alone decides: workers serve until they are ended."""
        return all_succeeded(roles, of=(LAUNCHER,))


def _options(spec: TrainingJobSpec) -> MpiOptions:
    return spec.mpi or MpiOptions()


def _with_sshd(worker: ReplicaSpec, options: MpiOptions) -> ReplicaSpec:
    containers = (worker.template.get("spec") or {}).get("containers")
    if not isinstance(containers, list) or not containers or not isinstance(containers[0], dict):
        # core/validation.py says what is wrong with it.
        return worker
    if containers[0].get("command") or containers[0].get("args"):
        return worker
    template: dict[str, Any] = copy.deepcopy(worker.template)
    port = [] if options.ssh_port is None else ["-p", str(options.ssh_port)]
    template["spec"]["containers"][0] |= {"command": ["/usr/sbin/sshd"], "args": ["-De", *port]}
    return worker.model_copy(update={"template": template})
