"""Mount points, options and credential files: what is refused, and that no secret shows."""

from pathlib import Path

import pytest

from understores.credentials import SecretOptions
from understores.errors import AccessDenied, InvalidMount
from understores.registry import open_store
from understores.s3_settings import S3Keys, parse_keys, parse_mount
from understores.webhdfs_settings import parse_identity
from understores.webhdfs_settings import parse_mount as parse_hdfs_mount


@pytest.mark.parametrize(
    ("mount_point", "options", "words"),
    [
        ("bucket/prefix", {}, "accepted are file://, hdfs://, http://, https://, oss://, s3://, webhdfs://"),
        ("ftp://host/x", {}, "accepted are"),
        ("s3://", {}, "write s3://bucket/prefix"),
        ("s3://bucket/a/../b", {}, "in its prefix"),
        ("s3://key:canary@bucket/", {}, "the s3:// mountPoint holds a user or password"),
        ("s3://bucket", {"endpoint": "ftp://x"}, "option 'endpoint' is 'ftp://x'; write http://host:port"),
        ("s3://bucket", {"endpoint": "http://x:99999"}, "option 'endpoint'"),
        ("s3://bucket", {"endpont": "http://x"}, "option 'endpont' is not known"),
        ("s3://bucket", {"accessKeyId": "k"}, "option 'accessKeySecret' is missing"),
        ("s3://bucket", {"fs.s3.accessKeySecret": "k"}, "option 'accessKeyId' is missing"),
        ("s3://bucket", {"virtualHostedStyle": "yes"}, "must be true or false"),
        ("http:///dir", {}, "write https://host/directory"),
        ("http://host/dir?token=canary", {}, "mountPoint 'http://host/dir' is not usable"),
        ("http://user:canary@host/", {}, "the http:// mountPoint holds a user or password"),
        ("https://host/a/../b", {}, "a '.' or '..' in its path"),
        ("https://host/", {"index": "../x"}, "option 'index' is '../x'; write the path of a file below the mount"),
        ("https://host/", {"password": "canary"}, "option 'username' is missing"),
        ("https://host/", {"username": "u", "fs.http.bearerToken": "canary"}, "exclude each other"),
        ("oss://bucket", {}, "option 'fs.oss.endpoint' is missing; write e.g."),
        ("oss://Bucket", {"endpoint": "x"}, "write oss://bucket/prefix"),
        ("oss://bucket", {"endpoint": "http://10.0.0.1"}, "option 'fs.oss.region' is missing"),
        ("oss://bucket", {"endpoint": "http://host/path", "region": "r"}, "without a path behind it"),
        (
            "oss://bucket",
            {"accessKeyId": "k", "endpoint": "http://h", "region": "r"},
            "'fs.oss.accessKeySecret' is missing",
        ),
        ("oss://bucket", {"securityToken": "canary"}, "'fs.oss.accessKeyId' is missing"),
        ("hdfs:///data", {}, "write hdfs://namenode:8020/path"),
        ("hdfs://nn/a/../b", {}, "write hdfs://namenode:8020/path"),
        ("hdfs://nn:port/a", {}, "write hdfs://namenode:8020/path"),
        ("hdfs://nn", {"dfs.namenode.http-address": "ftp://x"}, "option 'dfs.namenode.http-address' is 'ftp://x'"),
        ("hdfs://nn", {"httpAddress": "a", "httpsAddress": "b"}, "exclude each other"),
        ("file://host/dir", {}, "write file:///absolute/directory"),
        ("file:relative", {}, "write file:///absolute/directory"),
        ("file:///dir", {"mode": "x"}, "takes no options"),
    ],
)
def test_a_wrong_mount_names_its_field(mount_point: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidMount, match=words.replace("(", r"\(")) as error:
        open_store(mount_point, options, SecretOptions())
    assert "\n" not in error.value.message
    assert "canary" not in error.value.message


def test_options_shared_with_an_s3_mount_do_no_harm_to_a_file_mount() -> None:
    open_store("file:///dir", {"fs.s3.endpoint": "http://x"}, SecretOptions())


def test_both_spellings_mean_the_same() -> None:
    short = parse_mount("s3://b/p/", {"endpoint": "http://h:1", "region": "r"})
    long = parse_mount("s3://b/p", {"fs.s3.endpoint": "http://h:1/", "fs.s3.region": "r"})
    assert short == long
    assert (short.bucket, short.prefix, short.bucket_url) == ("b", "p/", "http://h:1/b")


def test_namenodes_of_an_hdfs_mount() -> None:
    def namenodes(mount_point: str, **options: str) -> tuple[str, ...]:
        return parse_hdfs_mount(mount_point, options).namenodes

    assert namenodes("hdfs://nn:8020/data") == ("http://nn:9870",)
    assert namenodes("hdfs://[::1]/data") == ("http://[::1]:9870",)
    assert namenodes("webhdfs://nn:14000") == ("http://nn:14000",)
    assert namenodes("hdfs://ns", httpAddress="a:1, b:2") == ("http://a:1", "http://b:2")
    assert namenodes("hdfs://ns", httpsAddress="a:1") == ("https://a:1",)
    identity = parse_identity({"HADOOP_USER_NAME": "alice", "delegationToken": "canary"})
    assert (identity.user, identity.delegation_token) == ("alice", "canary")
    assert "canary" not in repr(identity)


def test_virtual_hosted_style_puts_the_bucket_before_the_host() -> None:
    mount = parse_mount("s3://b", {"endpoint": "oss.example.com", "virtualHostedStyle": "true"})
    assert mount.bucket_url == "https://b.oss.example.com"


def test_secrets_show_in_no_repr(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("canary")
    secrets = SecretOptions(tmp_path, {"accessKeySecret": "key"})
    assert secrets.values() == {"accessKeySecret": "canary"}
    keys = parse_keys({"accessKeyId": "id", **secrets.values()})
    assert keys == S3Keys("id", "canary")
    assert "canary" not in repr(keys) + repr(secrets)
    with pytest.raises(InvalidMount) as error:
        parse_mount("s3://b", {"endpoint": "http://user:canary@host"})
    assert "canary" not in str(error.value)


@pytest.mark.parametrize("file", ["../x", "/etc/passwd", "a/../../x", "", "a//b"])
def test_a_secret_file_outside_the_folder_is_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(InvalidMount, match="below the credentials folder"):
        SecretOptions(tmp_path, {"accessKeyId": file})


def test_a_secret_link_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("canary")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("../outside")
    with pytest.raises(AccessDenied, match="leads out of"):
        SecretOptions(tmp_path / "folder", {"accessKeyId": "link"}).values()


def test_a_missing_secret_file_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match=r"'accessKeyId', ns/s/id, cannot be read: No such file"):
        SecretOptions(tmp_path, {"accessKeyId": "ns/s/id"}).values()
    with pytest.raises(InvalidMount, match="needs a credentials folder"):
        SecretOptions(None, {"accessKeyId": "ns/s/id"})


def test_a_changed_secret_file_is_read_again(tmp_path: Path) -> None:
    secrets = SecretOptions(tmp_path, {"token": "link/v"})
    for version in ("one", "twoo"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "v").write_text(version)
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(version)
        assert secrets.values() == {"token": version}
