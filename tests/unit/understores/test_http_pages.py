"""Directory pages, index files, versions and Retry-After: text in, entries out."""

from datetime import UTC, datetime

import pytest

from understores.errors import StoreFailed
from understores.http_client import retry_after_seconds
from understores.http_pages import IndexLine, content_range, parse_directory, parse_index, precondition, version
from understores.tree_listing import Child

URL = "http://host/data/set%201/"

NGINX = b"""<html>\r\n<head><title>Index of /data/set 1/</title></head>\r\n<body>
<h1>Index of /data/set 1/</h1><hr><pre><a href="../">../</a>
<a href="train/">train/</a>                      01-Jan-2026 10:00       -
<a href="a%20very%20long%20name%20that%20is%20cut.bin">a very long name that is cu..&gt;</a> 01-Jan-2026 10:00  12345
<a href="x%26y.bin">x&amp;y.bin</a>    01-Jan-2026 10:00     12
</pre><hr></body>\r\n</html>"""

APACHE = """<!DOCTYPE HTML><html><head><title>Index of /data/set 1</title></head><body><table>
<tr><th><a href="?C=N;O=D">Name</a></th><th><a href="?C=M;O=A">Last modified</a></th></tr>
<tr><td><img src="/icons/back.gif"></td><td><a href="/data/">Parent Directory</a></td></tr>
<tr><td><a href="%c3%bc.txt">ü.txt</a></td><td align="right">1.2K</td></tr>
<tr><td><a href="/data/set%201/train/">train/</a></td></tr>
<tr><td><a href="http://elsewhere/data/set%201/evil">evil</a></td></tr>
<tr><td><a href="a/b">two levels</a><a href="..%2Fup">up</a><a href="./">here</a></td></tr>
</table></body></html>""".encode()


def test_nginx_pages_give_whole_names() -> None:
    assert parse_directory(NGINX, "text/html", URL) == [
        Child("a very long name that is cut.bin", False),
        Child("train", True),
        Child("x&y.bin", False),
    ]


def test_apache_pages_give_what_is_directly_below_and_nothing_else() -> None:
    assert parse_directory(APACHE, "text/html;charset=UTF-8", URL) == [Child("train", True), Child("ü.txt", False)]


@pytest.mark.parametrize(
    "body",
    [
        b'[{"name":"b","type":"file","mtime":"x","size":1},{"name":"a","type":"directory","mtime":"x"}]',
        b'[{"name":"b","is_dir":false,"url":"./b"},{"name":"a/","is_dir":true,"url":"./a/"}]',
    ],
)
def test_json_pages(body: bytes) -> None:
    assert parse_directory(body, "application/json", URL) == [Child("a", True), Child("b", False)]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<title>Welcome</title><a href='x'>x</a>", "text/html"),
        (b"", "text/html"),
        (b"{}x", "application/json"),
        (b'{"name": "x"}', "application/json"),
        (b"[1]", "application/json"),
    ],
)
def test_what_is_no_directory_page_is_an_error_and_not_an_empty_directory(body: bytes, kind: str) -> None:
    with pytest.raises(StoreFailed):
        parse_directory(body, kind, f"{URL}?token=canary")


def test_an_index_is_sorted_and_may_know_sizes_and_etags() -> None:
    assert parse_index(b'b/c\na b\t12\t"x"\r\nz\t0\ty', "i") == [
        IndexLine("a b", 12, '"x"'),
        IndexLine("b/c"),
        IndexLine("z", 0, '"y"'),
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"a\n../b", "line 2 of the index i is '../b'; write a path"),
        (b"a\t12", "line 1"),
        (b"a\tten\tx", "line 1"),
        (b"a\nb\na", "line 3 of the index i names 'a' again"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_wrong_index_names_its_line(body: bytes, words: str) -> None:
    with pytest.raises(StoreFailed, match=words):
        parse_index(body, "i")


def test_versions_are_the_strong_etag_or_everything_else_together() -> None:
    assert version({"ETag": '"a"', "Last-Modified": "m"}, 1) == '"a"'
    weak = version({"ETag": 'W/"a"', "Last-Modified": "m"}, 1)
    assert len({weak, version({"Last-Modified": "m"}, 1), version({"Last-Modified": "m"}, 2), version({}, 1)}) == 4
    assert version({}, 1) == ""
    assert precondition('"a"') == {"If-Match": '"a"'}
    assert precondition(weak) == {"If-Unmodified-Since": "m"}
    assert precondition("nonsense") == {}


def test_content_ranges() -> None:
    assert content_range("bytes 2-4/10") == (2, 5, 10)
    for text in ("", "bytes */10", "bytes 2-4/*", "items 2-4/10", "bytes -2-4/10"):
        assert content_range(text) is None


def test_retry_after_is_seconds_or_a_date() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after_seconds({"Retry-After": "7"}, now) == 7
    assert retry_after_seconds({"Retry-After": "Thu, 01 Jan 2026 00:00:09 GMT"}, now) == 9
    for text in ("", "-1", "soon", "Thu, 01 Jan 2020 00:00:09 GMT"):
        assert retry_after_seconds({"Retry-After": text}, now) == 0
