"""Steps, completeness and order of checkpoints in the Marker format."""

import pytest

from metadata.core.checkpoints import checkpoints
from metadata.core.entries import Entry, Kind
from metadata.core.formats.registry import checkpoint_format
from metadata.errors import InvalidRequest

MARKER = checkpoint_format("Marker", "DONE")


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step-000120", 120),
        ("checkpoint-500", 500),
        ("120", 120),
        ("global_step7", 7),
        ("v2-tmp", None),
        ("latest", None),
        ("1" * 30, None),
    ],
)
def test_a_name_tells_the_step_it_ends_in(name: str, step: int | None) -> None:
    assert MARKER.step_of(name) == step


def found(*paths: str) -> list[tuple[int, bool, int]]:
    files = [Entry(path, Kind.FILE, 10, "e", mtime_ns=index) for index, path in enumerate(paths)]
    names = sorted({path.split("/")[0] for path in paths})
    children = [next((file for file in files if file.path == name), Entry(name, Kind.IMPLIED)) for name in names]

    def below(directory: str) -> list[Entry]:
        return [file for file in files if file.path.startswith(f"{directory}/")]

    return [(one.step, one.complete, one.bytes) for one in checkpoints(children, below, MARKER)]


def test_newest_first_and_complete_only_with_the_marker_in_place() -> None:
    assert found("s-1/w", "s-1/DONE", "s-20/w", "s-20/deep/DONE", "s-3/DONE", "notes/x", "s-9") == [
        (20, False, 20),
        (3, True, 10),
        (1, True, 20),
    ]


@pytest.mark.parametrize("marker", ["", "a/b", "..", "x\0"])
def test_a_marker_is_a_file_name(marker: str) -> None:
    with pytest.raises(InvalidRequest, match="marker"):
        checkpoint_format("Marker", marker)
