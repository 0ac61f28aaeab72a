"""Fixtures every part shares: the control plane's binaries and one real API server a test session."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from headrace.cluster.binaries import require
from headrace.cluster.control_plane import KNOWN_COMPONENTS, ControlPlane
from headrace.errors import HeadraceError
from tests.builders import api_servers
from tests.builders.postgres import PostgresServer

# Started in the background by a shell, tests would hand an ignored SIGINT on to all they start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of Python processes are started: each would compile anew what it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says how busy the machine is, and nothing else.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@dataclass(frozen=True)
class ApiServer:
    """A running API server: its administrator's kubeconfig and what hands out others."""

    kubeconfig: Path
    control_plane: ControlPlane


@pytest.fixture(scope="session")
def control_plane_binaries() -> Mapping[str, Path]:
    try:
        return require(KNOWN_COMPONENTS)
    except HeadraceError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def api_server(
    control_plane_binaries: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ApiServer]:
    """The one most tests share, each in a namespace of its own."""
    with api_servers.api_server(tmp_path_factory.mktemp("api-server"), control_plane_binaries, "tests") as plane:
        yield ApiServer(kubeconfig=plane.kubeconfig, control_plane=plane)


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL for all tests of a run; each makes a database of its own."""
    server = PostgresServer(tmp_path_factory.mktemp("postgres"))
    server.start()
    yield server
    server.stop()
