"""The worker's unix socket: what cannot be listened on says why."""

from pathlib import Path

import pytest

from cacheruntime.errors import CacheError
from cacheruntime.worker.local_socket import listen


def test_a_name_too_long_for_a_socket_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="too long"):
        listen(tmp_path / ("n" * 120))
