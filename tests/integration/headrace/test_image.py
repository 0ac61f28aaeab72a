"""The image, without a registry and without an engine: the Containerfile's rules, and what its last RUN lines make of
what it copies, with the packages of requirements-image.lock and no others.

Not here: that the base image and Debian's packages can be had."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]
RUN_SECONDS = 180.0
#: How the parts are started (manifests/base), and what people start.
ENTRY_POINTS = (
    "python -m scheduler --help",
    "python -m jobcontroller --help",
    "python -m metadata --help",
    "python -m cacheruntime controller --help",
    "python -m cacheruntime worker --help",
    "python -m fuse --help",
    "python -m fuse.csi --help",
    "headrace --help",
    "headrace dashboard --help",
    "headrace sim list",
)


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE))
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if word
    ]


def _locked(name: str) -> dict[str, str]:
    """Name → requirement, of those that are for this interpreter."""
    lines = re.findall(r"^([a-z0-9][^\s\\]*==[^\\\n]*)", (ROOT / name).read_text(), flags=re.MULTILINE)
    wanted = [Requirement(line.strip()) for line in lines]
    return {one.name: str(one.specifier) for one in wanted if one.marker is None or one.marker.evaluate()}


def test_it_is_made_in_stages_pinned_and_runs_as_nobody() -> None:
    found = _instructions()
    (base,) = [rest for word, rest in found if word == "ARG"]
    assert re.fullmatch(r"BASE=[\w.]+(/[\w.-]+)+:\d+[\w.-]*(@sha256:[0-9a-f]{64})?", base), "a tag that does not move"
    stages = [rest for word, rest in found if word == "FROM"]
    assert len(stages) > 1 and all(stage.startswith("${BASE}") for stage in stages)
    assert [rest for word, rest in found if word == "USER"] == ["65532:65532"]
    assert "ADD" not in [word for word, _ in found]
    for word, rest in found:
        if word == "RUN" and "pip install" in rest:
            assert "--require-hashes" in rest or "--no-deps" in rest
        assert not re.search(r"\b(curl|wget|git)\b|https?://", rest), "nothing but packages is fetched"


def test_its_packages_are_those_the_tests_run_with() -> None:
    image, everything = _locked("requirements-image.lock"), _locked("requirements.lock")
    assert image.items() <= everything.items(), "run `make lock`"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = {Requirement(line).name for line in project["dependencies"]}
    assert {name.lower() for name in asked} <= image.keys(), "run `make lock`"
    assert not image.keys() & {"jax", "pytest", "mypy", "moto"}


def test_the_manifests_name_the_image_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    images = {
        image
        for file in (ROOT / "manifests" / "base").rglob("*.yaml")
        for image in re.findall(r"image: (\S+)", file.read_text())
    }
    assert images == {f"headrace:{version}"}


def _copied(target: Path) -> None:
    """What `COPY . .` copies: what .containerignore leaves."""
    lines = (ROOT / ".containerignore").read_text().splitlines()
    assert lines[1] == "*"
    ignore = shutil.ignore_patterns("__pycache__")
    for line in lines:
        if line.startswith("!"):
            source = ROOT / line[1:]
            if source.is_dir():
                shutil.copytree(source, target / source.name, ignore=ignore)
            else:
                shutil.copy(source, target / source.name)


class Image:
    """An environment with the locked packages of the image, and the project installed as the Containerfile says."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "src"
        self.source.mkdir()
        self.environment = folder / "opt"
        self.bin = self.environment / "bin"
        venv.create(self.environment, with_pip=False)
        (self.packages,) = (self.environment / "lib").glob("*/site-packages")
        for name in _locked("requirements-image.lock"):
            self._link(metadata.distribution(name))
        _copied(self.source)
        for word, rest in _instructions():
            if word == "RUN" and "--no-deps" in rest:
                # This environment's pip stands for the image's own; the options are the Containerfile's.
                self.run([sys.executable, "-m", "pip", "--python", self.environment, *shlex.split(rest)[1:]])

    def _link(self, distribution: metadata.Distribution) -> None:
        for top in {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}:
            target = Path(str(distribution.locate_file(top)))
            link = self.packages / top
            if target.exists() and not link.exists():
                link.symlink_to(target)

    def run(self, argv: list[object]) -> str:
        """Run outside the checkout, without its environment."""
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=self.source,
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": "/nonexistent"},
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{argv}:\n{done.stdout}{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    made = Image(tmp_path_factory.mktemp("image"))
    # What is installed must do without its source.
    shutil.rmtree(made.source)
    made.source.mkdir()
    yield made


def test_every_process_of_the_manifests_starts_in_it(image: Image) -> None:
    with ThreadPoolExecutor(2) as threads:
        commands = [
            [str(image.bin / word) if word in ("python", "headrace") else word for word in line.split()]
            for line in ENTRY_POINTS
        ]
        said = dict(zip(ENTRY_POINTS, threads.map(image.run, commands), strict=True))
    assert "partial-cache" in said["headrace sim list"], "scenarios come with it"
    for line, text in said.items():
        assert "sage:" in text or line == "headrace sim list", line


def test_it_has_every_module_and_every_file_the_parts_read(image: Image) -> None:
    text = """
import importlib, pkgutil, api, cacheruntime, fuse, headrace, jobcontroller, kube, metadata, scheduler, simulations
import understores
# The demo and the generator need packages that are not for clusters.
left_out = ("headrace.demo", "api.generate")
for top in (api, cacheruntime, fuse, headrace, jobcontroller, kube, metadata, scheduler, simulations, understores):
    for module in pkgutil.walk_packages(top.__path__, top.__name__ + "."):
        if not module.name.startswith(left_out) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
from headrace.board.server import FILES, STATIC
from headrace.cluster.control_plane import KWOK_STAGES
assert all((STATIC / name).read_bytes() for name, _ in FILES.values())
assert KWOK_STAGES.read_bytes()
print(headrace.__file__)
"""
    assert str(image.packages) in image.run([image.bin / "python", "-c", text])


def test_the_wheel_holds_all_that_is_not_python_and_nothing_else(image: Image) -> None:
    (record,) = image.packages.glob("headrace-*.dist-info/RECORD")
    inside = {line.partition(",")[0] for line in record.read_text().splitlines()}
    patterns = ("headrace/board/static/*", "headrace/cluster/*.yaml", "simulations/scenarios/*.yaml")
    data = {str(file.relative_to(ROOT)) for pattern in patterns for file in ROOT.glob(pattern)}
    assert len(data) > 10 and data <= inside
    assert not [name for name in inside if name.startswith(("tests/", "tools/", "sdk/", "manifests/"))]
