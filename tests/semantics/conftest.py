"""Fixtures shared by exercises of a mount."""

from collections.abc import Iterator

import pytest

from tests.builders.both_backends import BothBackends, both_backends_in


@pytest.fixture(scope="package")
def both_backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BothBackends]:
    with both_backends_in(tmp_path_factory.mktemp("both")) as site:
        yield site
