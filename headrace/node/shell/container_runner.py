"""The containers of one pod: starting, adopting, stopping, and reporting what became of them.

Owns the processes and tasks of a pod's containers, and the events users see about them.
Does not decide when (core/pod_state.py): each deed is asked for by the pod's worker, which
gets back what happened as an event. Invariant: at most one process of a container at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol

import structlog

from headrace.node.core.log_lines import LogOptions, choose
from headrace.node.core.pod_model import (
    ContainerBlocked,
    ContainerExited,
    ContainerStarted,
    Event,
    PodRules,
    PodState,
    StartOrdered,
    StopOrdered,
    Terminated,
)
from headrace.node.core.pod_spec import Container, Pod, all_containers
from headrace.node.core.pod_state import handle, with_history
from headrace.node.errors import ConfigError, StartError
from headrace.node.shell import metrics, objects, probes, processes
from headrace.node.shell.container_spec import PodPlace, build_spec, exec_spec
from headrace.node.shell.processes import ContainerProcess
from headrace.node.shell.records import ContainerFolder, ExitRecord
from headrace.node.shell.volumes import VolumePath
from kube.client import KubeClient
from kube.errors import KubeError
from kube.events import EventKind

_log = structlog.get_logger(__name__)

START_ERROR_EXIT_CODE = 128
CONFIG_RETRY_SECONDS = 10.0
MAX_MESSAGE_BYTES = 4096
#: kubelet's share of the log for FallbackToLogsOnError.
FALLBACK_LINES, FALLBACK_BYTES = 80, 2048


class KubeletEvents(Protocol):
    """Records an event about a pod."""

    def __call__(self, reason: str, note: str, *, kind: EventKind = "Normal") -> None:
        """Take the event; never blocks."""


class ContainerRunner:
    """Processes of one pod."""

    def __init__(
        self,
        client: KubeClient,
        pod: Pod,
        place: PodPlace,
        *,
        record: KubeletEvents,
        send: Callable[[Event], None],
        current_pod: Callable[[], Pod],
    ) -> None:
        self.place = place
        self.volumes: Mapping[str, VolumePath] = {}
        self._client = client
        self._pod = current_pod
        self._record = record
        self._send = send
        self._containers: dict[str, Container] = {
            container.name: container for container, _ in all_containers(pod.spec)
        }
        self._processes: dict[str, ContainerProcess] = {}
        self._environments: dict[str, dict[str, str]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: deadlines of stops that were asked for before the process was there
        self._stop_at: dict[str, float] = {}

    # ---- starting ----------------------------------------------------------------------------

    def start(self, name: str, attempt: int) -> Event:
        """Begin to start a container; what becomes of it arrives as events."""
        self._stop_at.pop(name, None)
        self._spawn(self._guarded(name, attempt, self._run(name, attempt)), f"{name} {attempt}")
        return StartOrdered(name)

    async def _guarded(self, name: str, attempt: int, work: Coroutine[Any, Any, None]) -> None:
        """Run a container's task; an error of ours ends the container instead of leaving it in limbo."""
        try:
            await work
        except Exception as error:  # noqa: BLE001
            # The edge: logged and counted once.
            _log.exception("container_task_failed", container=name, attempt=attempt)
            metrics.WORKER_ERRORS.inc()
            process = self._processes.pop(name, None)
            if process is not None:
                process.kill()
            now = time.time()
            message = f"the node agent failed: {type(error).__name__}"
            outcome = Terminated(START_ERROR_EXIT_CODE, "ContainerCannotRun", now, now, message)
            self._send(ContainerExited(name, attempt, outcome))

    async def _run(self, name: str, attempt: int) -> None:
        container, folder = self._containers[name], self._folder(name)
        try:
            process = await self._start_process(container, folder, attempt)
        except (ConfigError, KubeError) as error:
            self._record("Failed", f"Error: {error}", kind="Warning")
            retry_at = time.time() + CONFIG_RETRY_SECONDS
            self._send(ContainerBlocked(name, "CreateContainerConfigError", str(error), retry_at))
            return
        except (StartError, OSError) as error:
            metrics.STARTS.labels("failed").inc()
            message = f'failed to start container "{name}": {error}'
            self._record("Failed", f"Error: {message}", kind="Warning")
            now = time.time()
            outcome = Terminated(START_ERROR_EXIT_CODE, "StartError", now, now, message)
            self._send(ContainerExited(name, attempt, outcome))
            return
        metrics.STARTS.labels("started").inc()
        self._record("Started", f"Started container {name}")
        await asyncio.to_thread(folder.forget_before, attempt)
        await self._watch(container, process)

    async def _start_process(self, container: Container, folder: ContainerFolder, attempt: int) -> ContainerProcess:
        named = await objects.for_environment(self._client, self._pod().metadata.namespace, container)
        spec = build_spec(self._pod(), container, self.place, objects=named, volumes=self.volumes, attempt=attempt)
        self._environments[container.name] = spec["env"]
        return await processes.start(folder, attempt, spec)

    async def _watch(self, container: Container, process: ContainerProcess) -> None:
        """Report a running container until it ended."""
        name = container.name
        self._processes[name] = process
        self._send(ContainerStarted(name, process.attempt, process.run.started_at))
        prober = asyncio.create_task(self._probe(container, process), name=f"probes {name}")
        try:
            if name in self._stop_at:
                self._end_process(name, process, self._stop_at[name])
            end = await process.wait()
        finally:
            prober.cancel()
            self._processes.pop(name, None)
        self._send(ContainerExited(name, process.attempt, self._outcome(container, process.attempt, end)))

    async def _probe(self, container: Container, process: ContainerProcess) -> None:
        if not any((container.startup_probe, container.readiness_probe, container.liveness_probe)):
            return

        async def execute(command: list[str], seconds: float) -> tuple[int, str]:
            try:
                return await self._execute(container, process, command, seconds)
            except (KubeError, ConfigError, OSError) as error:
                return 1, str(error)

        target = probes.ProbeTarget(
            container,
            process.attempt,
            self.place.facts.pod_ip,
            execute,
            self._send,
            lambda note: self._record("Unhealthy", note, kind="Warning"),
        )
        await probes.run(target)

    async def _execute(
        self, container: Container, process: ContainerProcess, command: list[str], seconds: float
    ) -> tuple[int, str]:
        env = self._environments.get(container.name)
        if env is None:
            # An adopted container: its environment is resolved again.
            named = await objects.for_environment(self._client, self._pod().metadata.namespace, container)
            env = build_spec(self._pod(), container, self.place, objects=named, volumes={}, attempt=process.attempt)[
                "env"
            ]
            self._environments[container.name] = env
        spec = exec_spec(self._pod(), container, env, command)
        return await processes.execute(process, spec, seconds)

    # ---- stopping ----------------------------------------------------------------------------

    def stop(self, name: str, why: str, deadline: float) -> Event:
        """Begin to stop a container: preStop, SIGTERM, and SIGKILL at `deadline` (seconds since 1970)."""
        self._record("Killing", f"Stopping container {name}" if why == "Stopping container" else why)
        self._stop_at[name] = deadline
        process = self._processes.get(name)
        if process is not None:
            self._end_process(name, process, deadline)
        return StopOrdered(name)

    def _end_process(self, name: str, process: ContainerProcess, deadline: float) -> None:
        self._spawn(self._terminate(name, process, deadline), f"stop {name}")

    async def _terminate(self, name: str, process: ContainerProcess, deadline: float) -> None:
        container = self._containers[name]
        hook = container.lifecycle.pre_stop if container.lifecycle else None
        if hook is not None and hook.exec is not None and deadline > time.time():
            try:
                code, output = await self._execute(container, process, hook.exec.command, deadline - time.time())
            except (KubeError, ConfigError, OSError) as error:
                code, output = 1, str(error)
            if code != 0:
                note = f"PreStopHook failed: exit code {code}: {output}"
                self._record("FailedPreStopHook", note, kind="Warning")
        process.terminate()
        await asyncio.sleep(max(0.0, deadline - time.time()))
        process.kill()

    def kill_all(self) -> None:
        """SIGKILL everything of the pod; may be repeated."""
        for process in self._processes.values():
            process.kill()

    def detach(self) -> None:
        """Leave the processes as they are and stop watching them."""
        for task in list(self._tasks):
            task.cancel()

    # ---- what an earlier agent left ----------------------------------------------------------

    def restore(self, rules: PodRules, state: PodState) -> PodState:
        """Return the state as the records have it, and watch again what is alive."""
        for container in rules.containers:
            folder = self._folder(container.name)
            attempts = folder.attempts()
            for attempt in attempts[-2:]:
                run = folder.run_record(attempt)
                started_at = run.started_at if run else 0.0
                process = processes.adopt(folder, attempt) if attempt == attempts[-1] else None
                state = handle(rules, state, ContainerStarted(container.name, attempt, started_at), started_at)
                if process is not None:
                    _log.info("container_adopted", pod=rules.name, container=container.name, attempt=attempt)
                    watching = self._watch(self._containers[container.name], process)
                    self._spawn(self._guarded(container.name, attempt, watching), container.name)
                    continue
                end = folder.exit_record(attempt) or processes.unknown_end(started_at)
                outcome = self._outcome(self._containers[container.name], attempt, end)
                state = handle(rules, state, ContainerExited(container.name, attempt, outcome), outcome.finished_at)
            if attempts:
                state = with_history(rules, state, container.name, attempts[-1])
        return state

    # ---- the end of a container --------------------------------------------------------------

    def _outcome(self, container: Container, attempt: int, end: ExitRecord) -> Terminated:
        if end.start_error:
            reason, message = "StartError", f'failed to start container "{container.name}": {end.start_error}'
        elif self._folder(container.name).exit_record(attempt) is None:
            reason = "ContainerStatusUnknown"
            message = "the machine was restarted or the container's monitor killed: its exit code is not known"
        else:
            reason = "Completed" if end.exit_code == 0 else "Error"
            message = self._message(container, attempt, end.exit_code)
        return Terminated(end.exit_code, reason, end.started_at, end.finished_at, message)

    def _message(self, container: Container, attempt: int, exit_code: int) -> str:
        folder = self._folder(container.name)
        try:
            with folder.file(attempt, "message").open("rb") as file:
                text = file.read(MAX_MESSAGE_BYTES).decode(errors="replace")
            if text or exit_code == 0 or container.termination_message_policy != "FallbackToLogsOnError":
                return text
            with folder.file(attempt, "log").open("rb") as file:
                file.seek(max(0, file.seek(0, 2) - 4 * FALLBACK_BYTES))
                lines = choose(file, LogOptions(tail_lines=FALLBACK_LINES))
                return b"".join(line.text for line in lines)[-FALLBACK_BYTES:].decode(errors="replace")
        except FileNotFoundError:
            return ""

    def _folder(self, name: str) -> ContainerFolder:
        return self.place.folder.container(name)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
