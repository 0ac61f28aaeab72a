"""What the images of a local cluster are made of: this Python, the project and what it needs, from this machine.

Owns the choice of files. Asks no registry: the same project and dependencies a Containerfile would install, at the
versions installed here, and the libraries they are linked with. Does not write archives (image_archive.py).
Invariant: everything a chosen program or library is linked with is chosen too."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path

from headrace.cluster.binaries import PROJECT_ROOT
from headrace.cluster.realnode.image_archive import Entry
from headrace.errors import ClusterError

PREFIX = "opt/python"
#: As the Containerfile has it.
USER = "65532:65532"
ENV = {
    "PATH": f"/{PREFIX}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONHOME": f"/{PREFIX}",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
#: Small programs that containers' commands and probes are written with, and what FUSE and mounts need.
PROGRAMS = ("sh", "cat", "chown", "cp", "env", "id", "ls", "md5sum", "mkdir", "mount", "rm", "sleep", "true", "umount")
#: Only where they are there.
OPTIONAL_PROGRAMS = ("fusermount3",)
#: Parts of the standard library no server needs.
#: Of other versions of Python.
COMPILED = f".{sys.implementation.cache_tag}.pyc"
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "ensurepip",
    "lib2to3",
    "site-packages",
    "dist-packages",
}
#: Our own packages, by the folders of the checkout.
NOT_PACKAGES = {"tests", "tools", "docs", "manifests", "sdk"}
LIBRARY = re.compile(r"=> (/\S+) \(|^\s+(/\S+) \(")
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([\w\s,-]*)\])?")
EXTRA_MARKER = re.compile(r"extra == ['\"]([\w-]+)['\"]")
LDD_SECONDS = 300.0
TEXTS = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nheadrace:x:65532:65532:headrace:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nheadrace:x:65532:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}
LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}
HEADRACE = f"""#!/{PREFIX}/bin/python
import sys

from headrace.__main__ import main

sys.exit(main())
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
DISTRIBUTION = "headrace"


def chosen() -> list[Entry]:
    """Everything in the layer but libraries. Raises ClusterError when something is not there."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    library = f"{PREFIX}/lib/python{version}"
    found = [Entry(path, link=target) for path, target in LINKS.items()]
    found += [Entry(path, text=text) for path, text in TEXTS.items()]
    found += [Entry("tmp", mode=0o1777), Entry("run"), Entry("root", mode=0o700), Entry("var/tmp", mode=0o1777)]
    if CERTIFICATES.exists():
        found.append(Entry(str(CERTIFICATES).lstrip("/"), source=CERTIFICATES))
    interpreter = Path(sys.executable).resolve()
    found.append(Entry(f"{PREFIX}/bin/python{version}", source=interpreter))
    found += [Entry(f"{PREFIX}/bin/{name}", link=f"python{version}") for name in ("python", "python3")]
    found.append(Entry(f"{PREFIX}/bin/headrace", text=HEADRACE, mode=0o755))
    found += _standard_library(library)
    found += _dependencies(f"{library}/site-packages")
    found += _project(f"{library}/site-packages")
    found += _programs()
    return found


def _standard_library(target: str) -> Iterator[Entry]:
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}:
        yield from _tree(Path(folder), target)


def _tree(folder: Path, target: str) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        left_out = LEFT_OUT.intersection(inside.parts) or path.name.startswith("_tkinter")
        if not left_out and path.is_file() and _is_wanted(path):
            yield Entry(f"{target}/{inside}", source=path.resolve())


def _dependencies(target: str) -> Iterator[Entry]:
    for name in sorted(_required(DISTRIBUTION) - {DISTRIBUTION}):
        distribution = importlib.metadata.distribution(name)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            # What lies outside (scripts, manual pages) is not for import.
            if ".." not in file.parts and path.is_file() and _is_wanted(path) and "tests" not in file.parts:
                yield Entry(f"{target}/{file}", source=path.resolve())


def _is_wanted(path: Path) -> bool:
    return path.suffix != ".a" and (path.suffix != ".pyc" or path.name.endswith(COMPILED))


def _required(name: str) -> set[str]:
    """The names of a distribution and of all it needs here, with the extras that are asked for."""
    found: set[tuple[str, str]] = set()
    waiting = [(name, "")]
    while waiting:
        current = waiting.pop()
        if current in found:
            continue
        try:
            requirements = importlib.metadata.requires(current[0]) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another system or Python, by its marker
        found.add(current)
        for line in requirements:
            condition = EXTRA_MARKER.search(line)
            if (condition[1] if condition else "") == current[1] and (match := REQUIREMENT.match(line)):
                needed = match[1].lower().replace("_", "-")
                waiting += [(needed, extra) for extra in ("", *re.split(r"\s*,\s*", match[2] or ""))]
    return {name for name, _ in found}


def _project(target: str) -> Iterator[Entry]:
    for package in sorted(PROJECT_ROOT.glob("*/__init__.py")):
        if package.parent.name not in NOT_PACKAGES:
            yield from _tree(package.parent, f"{target}/{package.parent.name}")
    yield from _tree(PROJECT_ROOT / "sdk" / "headrace_sdk", f"{target}/headrace_sdk")


def _programs() -> Iterator[Entry]:
    for name in (*PROGRAMS, *OPTIONAL_PROGRAMS):
        path = shutil.which(name)
        if path is not None:
            yield Entry(f"usr/bin/{name}", source=Path(path).resolve())
        elif name in PROGRAMS:
            raise ClusterError(f"`{name}` is not on PATH; the images of real nodes need it")


def libraries(linked: Sequence[Entry]) -> list[Entry]:
    """The shared libraries these files are linked with; those that lie beside them are chosen already. Takes seconds.

    Raises ClusterError when the loader cannot be asked."""
    known = {str(entry.source) for entry in linked}
    files = [str(entry.source) for entry in linked if entry.source is not None and _is_elf(entry.source)]
    try:
        done = subprocess.run(["ldd", *files], capture_output=True, text=True, timeout=LDD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"what the images' programs are linked with cannot be told: {error}") from error
    found: dict[str, Path] = {}
    for line in done.stdout.splitlines():
        match = LIBRARY.search(line)
        if match is None:
            continue
        named = Path(match[1] or match[2])
        if str(named.resolve()) not in known:
            found[str(named)] = named
    return [Entry(_place(named), source=named.resolve()) for named in found.values()]


def _place(library: Path) -> str:
    """Where a library goes: where it is, if the loader looks there by itself; else to where it does."""
    path = str(library)
    for folder, real in LINKS.items():
        if path.startswith(f"/{folder}/"):
            return real + path[len(folder) + 1 :]
    if path.startswith("/usr/lib"):
        return path.lstrip("/")
    return f"usr/lib/{sysconfig.get_config_var('MULTIARCH') or ''}/{library.name}".replace("//", "/")


def _is_elf(path: Path) -> bool:
    with path.open("rb") as content:
        return content.read(4) == b"\x7fELF"
