"""Finding and reading a cluster's configuration: kube/config.py."""

import base64
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube.config import load_config
from kube.errors import ConfigError

PEM = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
SECRET = "hunter2-secret"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def kubeconfig(
    server: Any = "https://one:6443", user: dict[str, Any] | None = None, name: str = "one"
) -> dict[str, Any]:
    return {
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encoded(PEM)}}],
        "users": [{"name": name, "user": user if user is not None else {"token": SECRET}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"{name}-space"}}],
    }


def write(path: Path, document: Any) -> Path:
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_a_whole_kubeconfig(tmp_path: Path) -> None:
    config = load_config(write(tmp_path / "config", kubeconfig()), environment={})
    assert config.server == "https://one:6443"
    assert config.ca_pem == PEM.encode()
    assert config.token == SECRET
    assert config.namespace == "one-space"


def test_secrets_do_not_show(tmp_path: Path) -> None:
    user = {"token": SECRET, "client-certificate-data": encoded(PEM), "client-key-data": encoded(PEM + SECRET)}
    config = load_config(write(tmp_path / "config", kubeconfig(user=user)), environment={})
    assert SECRET not in repr(config)
    assert "BEGIN" not in repr(config)
    assert "token" in repr(config)


def test_files_are_found_beside_the_kubeconfig(tmp_path: Path) -> None:
    write(tmp_path / "cert.pem", PEM)
    write(tmp_path / "key.pem", PEM)
    user = {"client-certificate": "cert.pem", "client-key": "key.pem", "tokenFile": "token"}
    config = load_config(write(tmp_path / "config", kubeconfig(user=user)), environment={})
    assert config.client_cert_pem == config.client_key_pem == PEM.encode()
    assert config.token_file == tmp_path / "token"


def test_the_first_file_of_a_list_wins_and_all_are_known(tmp_path: Path) -> None:
    first = write(tmp_path / "a", kubeconfig())
    second = write(tmp_path / "b", kubeconfig("https://two:6443", name="two"))
    env = {"KUBECONFIG": os.pathsep.join([str(tmp_path / "missing"), str(first), str(second)])}
    assert load_config(environment=env).server == "https://one:6443"
    assert load_config(context="two", environment=env).server == "https://two:6443"


def test_the_order_is_explicit_then_environment_then_home_then_in_cluster(tmp_path: Path) -> None:
    explicit = write(tmp_path / "explicit", kubeconfig("https://explicit"))
    listed = write(tmp_path / "listed", kubeconfig("https://listed"))
    (tmp_path / "home/.kube").mkdir(parents=True)
    write(tmp_path / "home/.kube/config", kubeconfig("https://home"))
    account = tmp_path / "account"
    account.mkdir()
    for name, text in (("token", "t"), ("ca.crt", PEM), ("namespace", "mine\n")):
        write(account / name, text)
    env = {"KUBECONFIG": str(listed), "HOME": str(tmp_path / "home"), "KUBERNETES_SERVICE_HOST": "fd00::1"}

    def load(path: Path | None = None) -> str:
        return load_config(path, environment=env, service_account_directory=account).server

    assert load(explicit) == "https://explicit"
    assert load() == "https://listed"
    del env["KUBECONFIG"]
    assert load() == "https://home"
    del env["HOME"]
    assert load() == "https://[fd00::1]:443"
    config = load_config(environment=env, service_account_directory=account)
    assert (config.token_file, config.namespace, config.token) == (account / "token", "mine", None)


def test_nothing_configured_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="pass a kubeconfig, set KUBECONFIG, or create"):
        load_config(environment={})


BAD: list[tuple[str, Any, str]] = [
    ("not yaml", f"a: [{SECRET}\nb: {{", "not valid YAML at line"),
    ("a list", "- a\n", "is a list, expected a mapping"),
    ("empty", "", "is empty, expected a mapping"),
    ("no context", kubeconfig() | {"current-context": ""}, "current-context is empty"),
    ("unknown context", kubeconfig() | {"current-context": "x"}, "context 'x' is not defined; defined are: one"),
    ("no clusters", kubeconfig() | {"clusters": None}, "cluster 'one' is not defined; defined are: none"),
    ("clusters text", kubeconfig() | {"clusters": "x"}, "clusters is a str, expected a list"),
    ("nameless user", kubeconfig() | {"users": [{"user": {}}]}, r"users\[0\] needs a name and a user"),
    ("bad server", kubeconfig("one:6443"), "server 'one:6443' must be an http:// or https:// address"),
    ("exec", kubeconfig(user={"exec": {"command": "aws"}}), "user.exec is not supported; use a token"),
    ("half a pair", kubeconfig(user={"client-certificate-data": encoded(PEM)}), "client-key is missing"),
    (
        "not base64",
        kubeconfig(user={"client-certificate-data": SECRET, "client-key-data": SECRET}),
        "client-certificate-data is not base64",
    ),
    (
        "not PEM",
        kubeconfig(user={"client-certificate-data": encoded(SECRET), "client-key-data": encoded(SECRET)}),
        "client-certificate holds no PEM block",
    ),
    (
        "missing file",
        kubeconfig(user={"client-certificate": "gone.pem", "client-key": "gone.pem"}),
        "client-certificate .*gone.pem cannot be read: No such file",
    ),
]


@pytest.mark.parametrize(("document", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_kubeconfig_is_one_clear_sentence_without_secrets(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path / "config", document), environment={})
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent cannot be read: No such file"):
        load_config(tmp_path / "absent", environment={})
    with pytest.raises(ConfigError, match="KUBECONFIG names /nowhere, which does not exist"):
        load_config(environment={"KUBECONFIG": "/nowhere"})
