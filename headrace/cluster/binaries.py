"""Where the control plane's binaries are.

Owns the list of binaries, the order they are looked for (environment variable,
PATH, per-user cache) and which versions are usable. Does not build: tools/ does,
from the pinned Go modules, into the cache folder named here.
Only the standard library, and no other package of this project beyond errors:
tools/bootstrap.py loads it before the virtual environment exists."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import BinaryMissing

#: The checkout; in an installed wheel there is no tools/ in it, and so no cache to look in.
PROJECT_ROOT = Path(__file__).resolve().parents[2]
#: Bumped when the way of building changes while the modules stay.
RECIPE = "1"
VERSION_SECONDS = 20.0

Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Binary:
    """One binary: its name, the variable that may name it, and where it is built from."""

    name: str
    env: str
    #: The oldest (major, minor) that serves what we use.
    oldest: Version
    version_args: tuple[str, ...]
    #: Folder of the checkout whose go.mod pins it (its last part names the build), and the Go package in it.
    folder: str
    package: str
    #: A cold build on two cores, measured; later ones of a module reuse the first one's packages.
    expected_seconds: int


KUBERNETES_OLDEST = (1, 34)
BINARIES: tuple[Binary, ...] = (
    Binary("etcd", "KWOK_ETCD_BINARY", (3, 5), ("--version",), "tools/etcd", "go.etcd.io/etcd/server/v3", 25),
    Binary(
        "kube-apiserver",
        "KWOK_KUBE_APISERVER_BINARY",
        KUBERNETES_OLDEST,
        ("--version",),
        "tools/kubernetes",
        "k8s.io/kubernetes/cmd/kube-apiserver",
        300,
    ),
    Binary(
        "kube-controller-manager",
        "KWOK_KUBE_CONTROLLER_MANAGER_BINARY",
        KUBERNETES_OLDEST,
        ("--version",),
        "tools/kubernetes",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
        35,
    ),
    Binary(
        "kube-scheduler",
        "KWOK_KUBE_SCHEDULER_BINARY",
        KUBERNETES_OLDEST,
        ("--version",),
        "tools/kubernetes",
        "k8s.io/kubernetes/cmd/kube-scheduler",
        20,
    ),
    Binary(
        "kubectl",
        "KWOK_KUBECTL_BINARY",
        KUBERNETES_OLDEST,
        ("version", "--client"),
        "tools/kubernetes",
        "k8s.io/kubernetes/cmd/kubectl",
        20,
    ),
    Binary("kwok", "KWOK_CONTROLLER_BINARY", (0, 6), ("--version",), "tools/kwok", "sigs.k8s.io/kwok/cmd/kwok", 75),
)
#: kube-scheduler's verdicts as a program (tests/oracle/README.md); only tests and `make verdicts` need it.
ORACLE = Binary("verdict-oracle", "HEADRACE_VERDICT_ORACLE", KUBERNETES_OLDEST, ("--version",), "tests/oracle", ".", 60)
#: The API server of the release after ours, which serves scheduling.k8s.io/v1beta1; only nightly tests need it.
NEXT_APISERVER = Binary(
    "kube-apiserver-next",
    "HEADRACE_KUBE_APISERVER_NEXT",
    (1, 37),
    ("--version",),
    "tools/kubernetes-next",
    "k8s.io/kubernetes/cmd/kube-apiserver",
    300,
)
#: The ecosystem's tests of a CSI driver; only tests and `make csi-sanity` need it.
CSI_SANITY = Binary(
    "csi-sanity",
    "HEADRACE_CSI_SANITY",
    (5, 4),
    ("--version",),
    "tools/csi-sanity",
    "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity",
    30,
)
#: A real S3 server, SeaweedFS; only nightly tests need it.
SEAWEEDFS = Binary(
    "weed",
    "HEADRACE_SEAWEEDFS",
    (4, 0),
    ("version",),
    "tools/seaweedfs",
    "github.com/seaweedfs/seaweedfs/weed",
    600,
)
#: What a real node is made of (headrace/cluster/realnode/); only `headrace up --nodes real`, `make e2e` and nightly
#: tests need it. The cluster's DNS is among them: no pod finds a Service without. A module of its own for kubelet: a
#: change of tools/kubernetes has everybody build the control plane again.
_CONTAINERD = ("tools/containerd", "github.com/containerd/containerd/v2/cmd")
REAL_NODE: tuple[Binary, ...] = (
    Binary(
        "kubelet",
        "HEADRACE_KUBELET",
        KUBERNETES_OLDEST,
        ("--version",),
        "tools/kubelet",
        "k8s.io/kubernetes/cmd/kubelet",
        60,
    ),
    Binary(
        "kube-proxy",
        "HEADRACE_KUBE_PROXY",
        KUBERNETES_OLDEST,
        ("--version",),
        "tools/kubelet",
        "k8s.io/kubernetes/cmd/kube-proxy",
        20,
    ),
    # kubelet 1.36 refuses containerd 1.x, which is what Debian 12 has.
    Binary(
        "containerd",
        "HEADRACE_CONTAINERD",
        (2, 0),
        ("--version",),
        _CONTAINERD[0],
        f"{_CONTAINERD[1]}/containerd",
        70,
    ),
    Binary(
        "containerd-shim-runc-v2",
        "HEADRACE_CONTAINERD_SHIM",
        (2, 0),
        ("-v",),
        _CONTAINERD[0],
        f"{_CONTAINERD[1]}/containerd-shim-runc-v2",
        5,
    ),
    Binary("ctr", "HEADRACE_CTR", (2, 0), ("--version",), _CONTAINERD[0], f"{_CONTAINERD[1]}/ctr", 5),
    Binary("coredns", "HEADRACE_COREDNS", (1, 11), ("-version",), "tools/coredns", ".", 60),
)
BY_NAME: Mapping[str, Binary] = {
    binary.name: binary for binary in (*BINARIES, ORACLE, NEXT_APISERVER, CSI_SANITY, SEAWEEDFS, *REAL_NODE)
}


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was found. `notes` has one line for each binary that was there and not usable."""

    found: Mapping[str, Path]
    missing: tuple[Binary, ...]
    notes: tuple[str, ...]


def cache_root(environ: Mapping[str, str]) -> Path:
    """The per-user cache folder of everything this project builds or fetches."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or Path.home()) / ".cache")
    return Path(base) / "headrace"


def cached_path(binary: Binary, environ: Mapping[str, str], root: Path = PROJECT_ROOT) -> Path | None:
    """Where the build of this binary goes, or None outside a checkout. The folder's name is a hash of
    what decides the result: the pinned modules, our own sources, the recipe and the machine's kind."""
    folder = root / binary.folder
    if not (folder / "go.mod").exists():
        return None
    digest = hashlib.sha256(f"{RECIPE}\n{platform.system()}\n{platform.machine()}\n".encode())
    for file in (folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))):
        digest.update(file.read_bytes() if file.exists() else b"")
    return cache_root(environ) / "control-plane" / f"{folder.name}-{digest.hexdigest()[:16]}" / binary.name


def parse_version(text: str) -> Version | None:
    """The first `1.2`-like version in a program's output, or None."""
    match = re.search(r"\bv?(\d+)\.(\d+)(?:\.\d+)?", text)
    return (int(match[1]), int(match[2])) if match else None


def version_of(path: Path, args: Sequence[str]) -> Version | None:
    """Ask a program for its version; None when it does not run or does not say."""
    try:
        done = subprocess.run(
            [str(path), *args],
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout + done.stderr)


def _candidates(binary: Binary, environ: Mapping[str, str]) -> list[tuple[Path, str]]:
    """(path, how it was named), best first."""
    named = environ.get(binary.env)
    on_path = shutil.which(binary.name, path=environ.get("PATH", os.defpath))
    found = [(Path(named), f"${binary.env}")] if named else []
    if on_path:
        found.append((Path(on_path), "PATH"))
    return found


def _objection(binary: Binary, path: Path, origin: str) -> str | None:
    """Why this file cannot be used, in one line; None when it can."""
    where = f"{binary.name} from {origin} ({path})"
    if not os.access(path, os.X_OK) or path.is_dir():
        return f"{where} is not an executable file"
    version = version_of(path, binary.version_args)
    if version is None:
        return f"{where} does not tell its version"
    if version < binary.oldest:
        have, need = ".".join(map(str, version)), ".".join(map(str, binary.oldest))
        return f"{where} is version {have}, {need} or newer is needed"
    return None


def locate(
    environ: Mapping[str, str] | None = None, names: Sequence[str] | None = None, root: Path = PROJECT_ROOT
) -> Lookup:
    """Look for the control plane's binaries, or for those named. Runs those named by a variable or on PATH for
    their version."""
    environ = os.environ if environ is None else environ
    found: dict[str, Path] = {}
    missing: list[Binary] = []
    notes: list[str] = []
    for binary in BINARIES if names is None else map(BY_NAME.__getitem__, names):
        for path, origin in _candidates(binary, environ):
            objection = _objection(binary, path, origin)
            if objection is None:
                found[binary.name] = path
                break
            notes.append(objection)
        else:
            cached = cached_path(binary, environ, root)
            if cached is not None and os.access(cached, os.X_OK):
                found[binary.name] = cached
            else:
                missing.append(binary)
    return Lookup(found=found, missing=tuple(missing), notes=tuple(notes))


def require(names: Sequence[str], environ: Mapping[str, str] | None = None) -> Mapping[str, Path]:
    """The paths of these binaries. Raises BinaryMissing, with the command that builds what is missing."""
    lookup = locate(environ, names)
    if lookup.missing:
        which = ", ".join(f"{binary.name} (or ${binary.env})" for binary in lookup.missing)
        notes = "".join(f"\n  {note}" for note in lookup.notes)
        raise BinaryMissing(
            f"not found: {which}; build them once with `make setup` in {PROJECT_ROOT}, or put them on PATH{notes}"
        )
    return lookup.found
