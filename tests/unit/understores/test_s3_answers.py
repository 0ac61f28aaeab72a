"""Signature, listing XML and error texts of S3, without a server."""

from datetime import UTC, datetime

import pytest

from understores.bucket_errors import from_answer, from_text
from understores.errors import (
    AccessDenied,
    BucketNotFound,
    Changed,
    NotFound,
    StoreFailed,
    Throttled,
    UnderStoreError,
    Unreachable,
)
from understores.s3_listing import parse_page
from understores.s3_settings import S3Keys, parse_mount
from understores.sigv4 import canonical_query, signed_headers

MOUNT = parse_mount("s3://bucket/p", {"endpoint": "http://host:1"})


def test_the_signature_is_that_of_amazons_published_example() -> None:
    keys = S3Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    query = canonical_query([("prefix", "J"), ("max-keys", "2")])
    headers = signed_headers(
        "https://examplebucket.s3.amazonaws.com/", query, keys, "us-east-1", datetime(2013, 5, 24, tzinfo=UTC)
    )
    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )


def test_queries_are_sorted_and_fully_encoded() -> None:
    assert canonical_query([("prefix", "a b/+ü"), ("delimiter", "")]) == "delimiter=&prefix=a%20b%2F%2B%C3%BC"


def page(contents: str, rest: str = "<IsTruncated>false</IsTruncated>", encoding: str = "url") -> bytes:
    return (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>{encoding}</EncodingType>{contents}{rest}</ListBucketResult>"
    ).encode()


def item(key: str) -> str:
    return (
        f"<Contents><Key>{key}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>"
        "<ETag>&quot;abc&quot;</ETag><Size>7</Size></Contents>"
    )


def test_a_page_gives_decoded_keys_below_the_prefix() -> None:
    infos, token = parse_page(page(item("p/a%2Bb+c%0A") + item("p/")), MOUNT)
    (info,) = infos
    assert (info.key, info.size_bytes, info.etag, token) == ("a+b c\n", 7, '"abc"', "")
    assert info.mtime_ns == 1_767_323_045_678_000_000


def test_a_truncated_page_says_how_to_go_on_or_is_refused() -> None:
    rest = "<IsTruncated>true</IsTruncated>"
    infos, token = parse_page(page(item("p/x"), rest + "<NextContinuationToken>t</NextContinuationToken>"), MOUNT)
    assert ([info.key for info in infos], token) == (["x"], "t")
    with pytest.raises(StoreFailed, match="without saying how to go on"):
        parse_page(page(item("p/x"), rest), MOUNT)


@pytest.mark.parametrize(
    "body", [b"", b"<html>hello", b"<html></html>", page(item("elsewhere/x")), page("<Contents></Contents>")]
)
def test_what_is_no_listing_is_refused_whole(body: bytes) -> None:
    with pytest.raises(StoreFailed, match="not S3 XML"):
        parse_page(body, MOUNT)


@pytest.mark.parametrize(
    ("status", "code", "kind", "retryable"),
    [
        (404, "NoSuchBucket", BucketNotFound, False),
        (404, "NoSuchKey", NotFound, False),
        (404, "", NotFound, False),
        (403, "", AccessDenied, False),
        (403, "SignatureDoesNotMatch", AccessDenied, False),
        (412, "PreconditionFailed", Changed, False),
        (503, "SlowDown", Throttled, True),
        (429, "", Throttled, True),
        (500, "InternalError", StoreFailed, True),
        (400, "Strange", StoreFailed, False),
    ],
)
def test_answers_become_reasons(status: int, code: str, kind: type[UnderStoreError], retryable: bool) -> None:
    error = from_answer(MOUNT, "k", status, code)
    assert type(error) is kind
    assert error.retryable is retryable
    assert error.message.endswith(".")


def test_the_clients_text_is_read_but_never_repeated() -> None:
    text = "GET http://h/?X-Amz-Signature=canary - status code: 403 Forbidden: <Code>ExpiredToken</Code> canary"
    error = from_text(MOUNT, "k", text)
    assert isinstance(error, AccessDenied)
    assert "session token has expired" in error.message
    assert "canary" not in error.message
    assert isinstance(from_text(MOUNT, "k", "HttpError { kind: Connect, canary"), Unreachable)
