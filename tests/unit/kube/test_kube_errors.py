"""The mapping of answers to errors: kube/errors.py."""

import msgspec
import pytest

from kube import errors


def status_body(code: int, reason: str, message: str = "why", **details: object) -> bytes:
    return msgspec.json.encode({"kind": "Status", "code": code, "reason": reason, "message": message, **details})


@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (404, "NotFound", errors.NotFound),
        (409, "AlreadyExists", errors.AlreadyExists),
        (409, "Conflict", errors.Conflict),
        (410, "Expired", errors.Gone),
        (410, "Gone", errors.Gone),
        (400, "Expired", errors.Gone),
        (429, "TooManyRequests", errors.TooManyRequests),
        (401, "Unauthorized", errors.Unauthorized),
        (403, "Forbidden", errors.Forbidden),
        (400, "BadRequest", errors.Invalid),
        (422, "Invalid", errors.Invalid),
        (415, "UnsupportedMediaType", errors.Invalid),
        (408, "Timeout", errors.Unavailable),
        (500, "InternalError", errors.Unavailable),
        (503, "ServiceUnavailable", errors.Unavailable),
        (504, "Timeout", errors.Unavailable),
    ],
)
def test_each_answer_has_one_error(code: int, reason: str, expected: type[errors.KubeError]) -> None:
    error = errors.error_from_response(code, {}, status_body(code, reason))
    assert type(error) is expected
    assert (error.status, error.reason, error.message) == (code, reason, "why")


def test_a_body_that_is_no_status_is_quoted_in_part_and_on_one_line() -> None:
    error = errors.error_from_response(502, {}, b"<html>\n bad   gateway\n" + b"x" * 100_000)
    assert isinstance(error, errors.Unavailable)
    assert error.message.startswith("<html> bad gateway x")
    assert len(error.message) == errors.MAX_MESSAGE_CHARACTERS


def test_long_messages_are_truncated() -> None:
    error = errors.error_from_response(422, {}, status_body(422, "Invalid", "y" * 5000))
    assert len(str(error)) < errors.MAX_MESSAGE_CHARACTERS + 20
    assert error.message.endswith("…")


def test_the_header_says_when_to_come_back_and_the_body_does_when_there_is_no_header() -> None:
    body = status_body(429, "TooManyRequests", details={"retryAfterSeconds": 7})
    assert errors.error_from_response(429, {"Retry-After": "2"}, body).retry_after_seconds == 2
    assert errors.error_from_response(429, {}, body).retry_after_seconds == 7


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2026 07:28:00 GMT", "-1", "inf", "nan", ""])
def test_an_unusable_retry_after_is_ignored(value: str) -> None:
    assert errors.error_from_response(503, {"Retry-After": value}, b"").retry_after_seconds is None


def test_an_empty_answer_still_says_something() -> None:
    assert str(errors.error_from_response(500, {}, b"")) == "HTTP 500"
