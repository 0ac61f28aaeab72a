"""What lies in the folder of held files, whatever moment its process ended at."""

import os
from pathlib import Path

import pytest

from api.held import HeldName
from cacheruntime.core.checksums import crc32c
from cacheruntime.core.held import Record
from cacheruntime.worker import held_files

BLOCK = 4096
DATA = bytes(range(251)) * 40
ID = "5" * 32


def record(data: bytes = DATA) -> Record:
    blocks = [data[start : start + BLOCK] for start in range(0, len(data), BLOCK)]
    return Record(
        etag=HeldName(ID, ("a", "b")).etag,
        uid="u",
        path="p",
        size_bytes=len(data),
        block_size_bytes=BLOCK,
        checksums=[crc32c(block) for block in blocks],
        held_at_ns=7,
    )


def held(tmp_path: Path, data: bytes = DATA) -> tuple[Path, held_files.HeldCopy]:
    folder, staged = tmp_path / "held", tmp_path / "staged"
    staged.write_bytes(data)
    return folder, held_files.keep(folder, staged, record(data))


def test_what_is_kept_is_found_again_and_what_is_dropped_is_not(tmp_path: Path) -> None:
    folder, copy = held(tmp_path)
    (tmp_path / "staged").unlink()  # it has a name of its own
    assert held_files.scan(folder) == [copy]
    assert bytes(held_files.read_range(copy, BLOCK + 3, 10)) == DATA[BLOCK + 3 : BLOCK + 13]
    descriptor = held_files.open_checked(copy)
    assert os.pread(descriptor, len(DATA), 0) == DATA
    os.close(descriptor)
    held_files.drop(copy)
    held_files.drop(copy)
    assert not list(folder.iterdir()) and held_files.scan(folder) == []
    assert held_files.scan(tmp_path / "never made") == []


def test_an_empty_file_is_held_like_others(tmp_path: Path) -> None:
    folder, copy = held(tmp_path, b"")
    assert held_files.scan(folder) == [copy]
    os.close(held_files.open_checked(copy))


def test_halves_are_removed_and_records_without_bytes_are_left_to_people(tmp_path: Path) -> None:
    folder, copy = held(tmp_path)
    begun, descriptor = held_files.begin(folder, "6" * 32)
    os.close(descriptor)
    (folder / ("7" * 32)).write_bytes(b"no record was written yet")
    (folder / f"{'8' * 32}.json.new").write_bytes(b"{")
    assert held_files.scan(folder) == [copy] and not begun.exists()
    names = {path.name for path in folder.iterdir()}
    assert names == {ID, f"{ID}.json"}
    copy.path.write_bytes(DATA[:-1])
    assert held_files.scan(folder) == []
    copy.path.with_name(f"{ID}.json").write_bytes(b"{}")
    assert held_files.scan(folder) == []
    assert {path.name for path in folder.iterdir()} == names


def test_a_folder_has_one_name_and_traces_of_what_was_held(tmp_path: Path) -> None:
    folder, copy = held(tmp_path)
    name = held_files.disk_id(folder)
    assert held_files.disk_id(folder) == name != held_files.disk_id(tmp_path / "other")
    assert held_files.scan(folder) == [copy] and held_files.scan(tmp_path / "other") == []
    assert held_files.has_traces(folder, ID) and not held_files.has_traces(folder, "6" * 32)
    copy.path.unlink()
    assert held_files.has_traces(folder, ID)
    held_files.drop(copy)
    assert not held_files.has_traces(folder, ID) and held_files.disk_id(folder) == name


def test_damaged_bytes_are_given_to_nobody(tmp_path: Path) -> None:
    _, copy = held(tmp_path)
    with copy.path.open("r+b") as file:
        file.seek(BLOCK + 1)
        file.write(b"?")
    with pytest.raises(OSError, match="checksum"):
        held_files.read_range(copy, BLOCK + 100, 1)
    with pytest.raises(OSError, match="checksum"):
        held_files.open_checked(copy)
    assert bytes(held_files.read_range(copy, 0, 3)) == DATA[:3]


def test_what_cannot_be_recorded_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, record: Record) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(held_files, "_write_record", full)
    with pytest.raises(OSError, match="space"):
        held(tmp_path)
    assert not list((tmp_path / "held").iterdir()) and (tmp_path / "staged").exists()
