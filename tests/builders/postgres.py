"""A PostgreSQL server of a test's own: Debian's, in a temporary folder, on a loopback port, with a password."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg

from headrace.cluster import ports

START_SECONDS = 60.0
PASSWORD = "canary-8f2c"
USER = "headrace"


def binaries() -> Path:
    """The folder of the newest server's programs."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    assert found, "no PostgreSQL server here: tools/bootstrap.py installs Debian's package postgresql"
    return found[-1].parent


class PostgresServer:
    """One cluster of databases. The server refuses to run as root, so it runs as Debian's user then."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.passfile = folder / "passfile"
        self.port = ports.pick_free(())
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        folder.mkdir(parents=True, exist_ok=True)
        pwfile = folder / "initial-password"
        pwfile.write_text(PASSWORD)
        self.passfile.write_text(f"*:*:*:{USER}:{PASSWORD}\n")
        self.passfile.chmod(0o600)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(pwfile, "postgres")
            self._open_the_way()
        self._run("initdb", f"--pgdata={self.data}", f"--username={USER}", "--auth=scram-sha-256",
                  f"--pwfile={pwfile}", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")  # fmt: skip

    def _open_the_way(self) -> None:
        """pytest's temporary folders are for their owner only."""
        for parent in self.folder.parents:
            if parent.stat().st_uid == os.geteuid() and parent.name.startswith(("pytest-", "popen-", "postgres")):
                parent.chmod(parent.stat().st_mode | 0o011)

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(binaries() / program), *arguments]
        return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            self._command(program, *arguments), check=True, capture_output=True, cwd="/", timeout=START_SECONDS
        )

    def start(self) -> None:
        """Start the server and wait until it answers."""
        log = (self.folder / "server.log").open("ab")
        arguments = ["-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", "-k", ""]
        with log:
            self._process = subprocess.Popen(self._command("postgres", *arguments), stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=1).close()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-2000:]
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """As a power cut would: every process of the server at once."""
        pids = self._pids()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End it, connections and all."""
        if self._process is not None and self._process.poll() is None:
            os.kill(int((self.data / "postmaster.pid").read_text().splitlines()[0]), signal.SIGQUIT)
            self._wait()

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(START_SECONDS)
        self._process = None

    def _pids(self) -> Sequence[int]:
        postmaster = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = subprocess.run(["pgrep", "-P", str(postmaster)], capture_output=True, text=True, check=False)
        return [postmaster, *map(int, children.stdout.split())]

    def url(self, database: str) -> str:
        """As the metadata service takes it."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}?passfile={quote(str(self.passfile))}"

    def new_database(self) -> str:
        """The URL of a fresh database."""
        name = f"test_{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)
