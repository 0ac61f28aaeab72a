"""Settings are checked at start."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jobcontroller.settings import Settings, parse_address


def test_an_address_must_have_a_port() -> None:
    with pytest.raises(ValidationError, match=r"must be HOST:PORT, as 127\.0\.0\.1:7000"):
        Settings(metadata="localhost")


def test_addresses() -> None:
    assert parse_address("127.0.0.1:7000") == ("127.0.0.1", 7000)
    assert parse_address("[::1]:7000") == ("::1", 7000)
    with pytest.raises(ValueError, match="HOST:PORT"):
        parse_address("x:70000")
