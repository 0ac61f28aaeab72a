"""Asking containers how they are: exec, httpGet and tcpSocket probes.

Owns the asking and its rhythm; one task a container start. Does not judge
(core/probe_state.py counts, core/pod_state.py acts). gRPC probes are not run: their
containers count as ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp

from headrace.node.core.node_object import HOST_IP
from headrace.node.core.pod_model import ProbeAnswered
from headrace.node.core.pod_spec import Container, Probe
from headrace.node.core.probe_state import ProbeCount, count

Execute = Callable[[list[str], float], Awaitable[tuple[int, str]]]


@dataclass(frozen=True, slots=True)
class ProbeTarget:
    """What a prober needs of its container."""

    container: Container
    attempt: int
    pod_ip: str
    execute: Execute
    report: Callable[[ProbeAnswered], None]
    record: Callable[[str], None]


def is_runnable(probe: Probe | None) -> bool:
    """True when there is a probe of a kind that is run here."""
    return probe is not None and (probe.exec or probe.http_get or probe.tcp_socket) is not None


async def run(target: ProbeTarget) -> None:
    """Probe a running container until cancelled."""
    container = target.container
    if container.startup_probe is not None:
        if is_runnable(container.startup_probe):
            await _until_started(target, container.startup_probe)
        target.report(ProbeAnswered(container.name, target.attempt, is_started=True))
    if container.readiness_probe is None:
        target.report(ProbeAnswered(container.name, target.attempt, is_ready=True))
    async with asyncio.TaskGroup() as tasks:
        for probe, is_readiness in ((container.readiness_probe, True), (container.liveness_probe, False)):
            if probe is None:
                continue
            if is_runnable(probe):
                tasks.create_task(_repeat(target, probe, is_readiness))
            elif is_readiness:
                target.report(ProbeAnswered(container.name, target.attempt, is_ready=True))


async def _until_started(target: ProbeTarget, probe: Probe) -> None:
    state = ProbeCount()
    await asyncio.sleep(probe.initial_delay_seconds)
    while True:
        is_success, output = await _ask(target, probe)
        state = count(state, probe, is_success)
        if state.verdict is True:
            return
        if not is_success:
            target.record(f"Startup probe failed: {output}")
        if state.verdict is False:
            _report_unhealthy(target, "startup")
        await asyncio.sleep(probe.period_seconds)


async def _repeat(target: ProbeTarget, probe: Probe, is_readiness: bool) -> None:
    state = ProbeCount()
    await asyncio.sleep(probe.initial_delay_seconds)
    while True:
        began = time.monotonic()
        is_success, output = await _ask(target, probe)
        before, state = state.verdict, count(state, probe, is_success)
        if not is_success:
            target.record(f"{'Readiness' if is_readiness else 'Liveness'} probe failed: {output}")
        if state.verdict != before and state.verdict is not None:
            if is_readiness:
                target.report(ProbeAnswered(target.container.name, target.attempt, is_ready=state.verdict))
            elif not state.verdict:
                _report_unhealthy(target, "liveness")
        await asyncio.sleep(max(0.0, probe.period_seconds - (time.monotonic() - began)))


def _report_unhealthy(target: ProbeTarget, kind: str) -> None:
    name = target.container.name
    why = f"Container {name} failed {kind} probe, will be restarted"
    target.report(ProbeAnswered(name, target.attempt, unhealthy=why))


async def _ask(target: ProbeTarget, probe: Probe) -> tuple[bool, str]:
    if probe.exec is not None:
        code, output = await target.execute(probe.exec.command, probe.timeout_seconds)
        return code == 0, output
    try:
        async with asyncio.timeout(probe.timeout_seconds):
            return await (_http(target, probe) if probe.http_get is not None else _tcp(target, probe))
    except TimeoutError:
        return False, "context deadline exceeded"
    except (OSError, aiohttp.ClientError, ValueError) as error:
        return False, str(error)


async def _http(target: ProbeTarget, probe: Probe) -> tuple[bool, str]:
    action = probe.http_get
    assert action is not None
    host = action.host or target.pod_ip or HOST_IP
    url = f"{action.scheme.lower()}://{host}:{_port(target.container, action.port)}/{action.path.lstrip('/')}"
    headers = {header.name: header.value for header in action.http_headers}
    # kubelet does not check certificates either: the probe asks for life, not for identity.
    connector = aiohttp.TCPConnector(ssl=False)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get(url, headers=headers, allow_redirects=False) as response,
    ):
        return 200 <= response.status < 400, f"HTTP probe failed with statuscode: {response.status}"


async def _tcp(target: ProbeTarget, probe: Probe) -> tuple[bool, str]:
    action = probe.tcp_socket
    assert action is not None
    host = action.host or target.pod_ip or HOST_IP
    _, writer = await asyncio.open_connection(host, _port(target.container, action.port))
    writer.close()
    return True, ""


def _port(container: Container, port: int | str) -> int:
    if isinstance(port, int):
        return port
    for declared in container.ports:
        if declared.name == port:
            return declared.container_port
    if port.isdecimal():
        return int(port)
    raise ValueError(f"port {port!r} is not declared by container {container.name!r}")
