"""What asking where bytes are costs the store."""

from types import SimpleNamespace
from typing import Any

import pytest

from metadata.shell.residency_service import ONE_BY_ONE_MAX, known_datasets


class Reader:
    """Ten thousand datasets; counts what is read of them."""

    def __init__(self) -> None:
        self.rows = 0

    def dataset(self, uid: str) -> Any:
        self.rows += 1
        return SimpleNamespace(uid=uid) if int(uid) < 10_000 else None

    def datasets(self) -> list[Any]:
        self.rows += 10_000
        return [SimpleNamespace(uid=str(number)) for number in range(10_000)]


@pytest.mark.parametrize(("cached", "rows"), [(0, 0), (3, 4), (ONE_BY_ONE_MAX + 1, 10_000)])
def test_only_what_somebody_caches_is_read(cached: int, rows: int) -> None:
    reader: Any = Reader()
    wanted = {str(number) for number in range(cached)}
    known = known_datasets(reader, wanted | ({"99999"} if cached else set()))
    assert set(known) == {one.uid for one in known.values()} == wanted
    assert reader.rows == rows
