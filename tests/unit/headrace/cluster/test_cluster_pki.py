"""Certificates: kept while they are good, made again when asked for something else, never readable by others."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509

from headrace.cluster import manifests
from headrace.cluster.control_plane import kubeconfig_text
from headrace.cluster.pki import Authority
from headrace.errors import ClusterError
from kube.config import load_config


def test_a_pair_is_kept_until_something_else_is_asked_of_it(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.server("api", ["127.0.0.1"])
    before = pair.cert.read_bytes()
    assert Authority(tmp_path, "ca").server("api", ["127.0.0.1"]).cert.read_bytes() == before
    assert authority.server("api", ["127.0.0.1", "localhost"]).cert.read_bytes() != before
    assert all(file.stat().st_mode & 0o777 == 0o600 for file in tmp_path.iterdir())


def test_a_certificate_without_its_key_is_made_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.client("admin", "admin", ["system:masters"])
    pair.key.unlink()
    again = authority.client("admin", "admin", ["system:masters"])
    context = ssl.create_default_context(cafile=str(authority.pair.cert))
    context.load_cert_chain(again.cert, again.key)


def test_user_and_groups_are_in_the_kubeconfigs_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    pair = authority.client("scheduler", "headrace:scheduler", ["headrace:scheduler"])
    file = tmp_path / "kubeconfig"
    file.write_text(
        kubeconfig_text("one", "https://127.0.0.1:6443", authority.pair, "headrace:scheduler", pair), encoding="utf-8"
    )
    config = load_config(file)
    assert config.server == "https://127.0.0.1:6443"
    assert config.client_cert_pem is not None
    subject = x509.load_pem_x509_certificate(config.client_cert_pem).subject.rfc4514_string()
    assert subject == "CN=headrace:scheduler,O=headrace:scheduler"


def test_a_manifest_that_is_not_an_object_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rbac.yaml"
    file.write_text(yaml.safe_dump({"kind": "ClusterRole"}), encoding="utf-8")
    with pytest.raises(ClusterError, match=r"rbac\.yaml holds a document without apiVersion and kind"):
        manifests.load([file])
