"""A page read the fast way is the page read as XML."""

from datetime import UTC
from urllib.parse import quote
from xml.sax.saxutils import escape

from hypothesis import given
from hypothesis import strategies as st

from understores.errors import StoreFailed
from understores.s3_listing import parse_page
from understores.s3_settings import parse_mount

MOUNT = parse_mount("s3://bucket/p", {"endpoint": "http://host:1"})
NAMES = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
EXTRAS = st.sampled_from(["", "<ChecksumType>FULL_OBJECT</ChecksumType>", "<Owner><ID>x</ID></Owner>", "\n "])
TAILS = st.sampled_from(["", "<StorageClass>STANDARD</StorageClass>", "<StorageClass/>", "<!-- <Contents> -->"])

TIMES = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(lambda time: f"{time:%Y-%m-%dT%H:%M:%S}.{time.microsecond // 1000:03}Z"),
    st.sampled_from(
        [
            "2026-01-02T03:04:05Z",
            "2026-01-02T03:04:05.678+02:00",
            "2026-01-02T03:04:05.678901Z",
            "2026-13-02T03:04:05.000Z",
            "2026-01-02 03:04:05.678Z",
            "2026-01-02T03:04:+5.000Z",
            "2026-01-02T03:04:60.000Z",
            "2026-01-02T3:004:05.000Z",
            "2026-01-02T24:00:00.000Z",
        ]
    ),
)


@st.composite
def items(draw: st.DrawFn) -> str:
    key = quote(f"p/{draw(NAMES)}", safe=draw(st.sampled_from(["/", ""])))
    quotes = draw(st.sampled_from(["&quot;", "&#34;", '"', "&#x22;", "&amp;", ""]))
    modified = draw(TIMES)
    etag = escape(draw(st.sampled_from(["abc", "ä", "a-2", "<", "", 'a"b'])))
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{quotes}{etag}{quotes}</ETag>"
        f"{draw(EXTRAS)}<Size>{draw(st.integers(0, 2**40))}</Size>{draw(TAILS)}</Contents>"
    )


@given(st.lists(items(), max_size=5), st.sampled_from(["", "\n"]), st.sampled_from(["url", ""]))
def test_the_fast_way_gives_what_the_tree_gives(contents: list[str], gap: str, encoding: str) -> None:
    def page() -> bytes:
        coding = f"<EncodingType>{encoding}</EncodingType>" if encoding else ""
        rest = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
        return f"<ListBucketResult>{coding}{gap.join(contents)}{rest}</ListBucketResult>".encode()

    def parsed(body: bytes) -> object:
        try:
            return parse_page(body, MOUNT)
        except StoreFailed as error:
            return error.message

    # A comment, even an empty one behind everything, makes it go the slow way.
    assert parsed(page()) == parsed(page() + b"<!---->")
