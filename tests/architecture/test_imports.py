"""Imports go one way, and cores do no I/O: the contracts of `.importlinter` hold."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_import_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_contracts_see_a_broken_rule(tmp_path: Path) -> None:
    package = tmp_path / "lower"
    package.mkdir()
    (package / "__init__.py").write_text("import upper\n")
    (tmp_path / "upper").mkdir()
    (tmp_path / "upper" / "__init__.py").write_text("")
    text = (ROOT / ".importlinter").read_text()
    assert "type = layers" in text
    (tmp_path / ".importlinter").write_text(
        "[importlinter]\nroot_packages =\n    lower\n    upper\n"
        "[importlinter:contract:layers]\nname = x\ntype = layers\nlayers =\n    upper\n    lower\n"
    )
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
