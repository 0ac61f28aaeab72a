"""How to reach an API server: a kubeconfig file, or the service account of a pod.

Owns the search order (explicit path, $KUBECONFIG, ~/.kube/config, in-cluster) and the
merging of several kubeconfig files (the first mention of a name wins, as in kubectl).
Does not open connections (kube/client.py) nor run credential plugins. Invariant:
credentials never show in `repr`, in messages or in logs.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from kube.errors import ConfigError

SERVICE_ACCOUNT_DIRECTORY = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """Address and credentials of one API server; PEM fields hold the text itself, not paths."""

    server: str
    ca_pem: bytes | None = None
    client_cert_pem: bytes | None = field(default=None, repr=False)
    client_key_pem: bytes | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_file: Path | None = None
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool = False
    namespace: str = "default"

    def __repr__(self) -> str:
        has = [
            word
            for word, value in (
                ("ca", self.ca_pem),
                ("client certificate", self.client_cert_pem),
                ("token", self.token or self.token_file),
            )
            if value
        ]
        return f"ClusterConfig(server={self.server!r}, namespace={self.namespace!r}, with={has})"


def load_config(
    kubeconfig: Path | None = None,
    context: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    service_account_directory: Path = SERVICE_ACCOUNT_DIRECTORY,
) -> ClusterConfig:
    """Find and read the configuration; `context` overrides the file's current-context.

    Order: `kubeconfig`, $KUBECONFIG (a list of files), ~/.kube/config, the pod's service account.
    Raises ConfigError with one sentence that names the file, the field and what would be right.
    """
    env = os.environ if environment is None else environment
    if kubeconfig is not None:
        return _read_kubeconfigs([kubeconfig], context)
    listed = [Path(part) for part in env.get("KUBECONFIG", "").split(os.pathsep) if part]
    if listed:
        existing = [path for path in listed if path.exists()]
        if not existing:
            raise ConfigError(f"KUBECONFIG names {listed[0]}, which does not exist")
        return _read_kubeconfigs(existing, context)
    home = env.get("HOME")
    default = Path(home) / ".kube" / "config" if home else None
    if default is not None and default.exists():
        return _read_kubeconfigs([default], context)
    if context is None and env.get("KUBERNETES_SERVICE_HOST"):
        return _in_cluster(env, service_account_directory)
    raise ConfigError("no cluster is configured: pass a kubeconfig, set KUBECONFIG, or create ~/.kube/config")


def _in_cluster(env: Mapping[str, str], directory: Path) -> ClusterConfig:
    host, port = env["KUBERNETES_SERVICE_HOST"], env.get("KUBERNETES_SERVICE_PORT", "443")
    token_file, ca_file = directory / "token", directory / "ca.crt"
    if not token_file.exists():
        raise ConfigError(f"in-cluster token {token_file} is missing: mount the pod's service account")
    namespace_file = directory / "namespace"
    return ClusterConfig(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ca_pem=_read_bytes(ca_file, "in-cluster ca.crt"),
        token_file=token_file,
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
    )


@dataclass(slots=True)
class _Merged:
    """Named entries of all files, each with the file it came from (relative paths start there)."""

    path: Path
    clusters: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)
    users: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)
    contexts: dict[str, tuple[dict[str, Any], Path]] = field(default_factory=dict)
    current: str = ""


def _read_kubeconfigs(paths: list[Path], context: str | None) -> ClusterConfig:
    merged = _Merged(paths[0])
    for path in paths:
        document = _load_yaml(path)
        merged.current = merged.current or str(document.get("current-context") or "")
        for entries, plural, singular in (
            (merged.clusters, "clusters", "cluster"),
            (merged.users, "users", "user"),
            (merged.contexts, "contexts", "context"),
        ):
            for name, body in _named_entries(document, plural, singular, path):
                entries.setdefault(name, (body, path))
    wanted = context or merged.current
    if not wanted:
        raise ConfigError(f"{merged.path}: current-context is empty; set it or name a context")
    chosen, _ = _entry(merged.contexts, wanted, "context", merged.path)
    cluster, cluster_file = _entry(merged.clusters, chosen.get("cluster"), "cluster", merged.path)
    if not chosen.get("user"):
        return _cluster_config(cluster, cluster_file, {}, merged.path, chosen)
    user, user_file = _entry(merged.users, chosen["user"], "user", merged.path)
    return _cluster_config(cluster, cluster_file, user, user_file, chosen)


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(_read_bytes(path, "kubeconfig"))
    except yaml.YAMLError as error:
        # Only the position: the parser's own text quotes lines of the file, which may be secrets.
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise ConfigError(f"kubeconfig {path} is not valid YAML{where}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"kubeconfig {path} is {_kind(document)}, expected a mapping with clusters and users")
    return document


def _named_entries(
    document: dict[str, Any], plural: str, singular: str, path: Path
) -> list[tuple[str, dict[str, Any]]]:
    entries = document.get(plural) or []
    if not isinstance(entries, list):
        raise ConfigError(f"{path}: {plural} is {_kind(entries)}, expected a list")
    result = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise ConfigError(f"{path}: {plural}[{index}] needs a name and a {singular}")
        body = entry.get(singular) or {}
        if not isinstance(body, dict):
            raise ConfigError(f"{path}: {plural}[{index}].{singular} is {_kind(body)}, expected a mapping")
        result.append((entry["name"], body))
    return result


def _entry(
    entries: dict[str, tuple[dict[str, Any], Path]], name: Any, kind: str, path: Path
) -> tuple[dict[str, Any], Path]:
    if name in entries:
        return entries[name]
    known = ", ".join(sorted(entries)) or "none"
    raise ConfigError(f"{path}: {kind} {name!r} is not defined; defined are: {known}")


def _cluster_config(
    cluster: dict[str, Any], cluster_file: Path, user: dict[str, Any], user_file: Path, context: dict[str, Any]
) -> ClusterConfig:
    server = cluster.get("server")
    if not isinstance(server, str) or urlsplit(server).scheme not in {"http", "https"}:
        raise ConfigError(f"{cluster_file}: server {server!r} must be an http:// or https:// address")
    for plugin in ("exec", "auth-provider", "username"):
        if user.get(plugin):
            raise ConfigError(
                f"{user_file}: user.{plugin} is not supported; use a token, tokenFile or client certificate"
            )
    token_file = user.get("tokenFile")
    certificate = _pem(user, "client-certificate", user_file)
    key = _pem(user, "client-key", user_file)
    if (certificate is None) != (key is None):
        missing = "client-key" if key is None else "client-certificate"
        raise ConfigError(f"{user_file}: {missing} is missing; certificate and key go together")
    return ClusterConfig(
        server=server.rstrip("/"),
        ca_pem=_pem(cluster, "certificate-authority", cluster_file),
        client_cert_pem=certificate,
        client_key_pem=key,
        token=user.get("token") or None,
        token_file=user_file.parent / str(token_file) if token_file else None,
        tls_server_name=cluster.get("tls-server-name") or None,
        insecure_skip_tls_verify=cluster.get("insecure-skip-tls-verify") is True,
        namespace=str(context.get("namespace") or "default"),
    )


def _pem(entry: dict[str, Any], field_name: str, path: Path) -> bytes | None:
    data = entry.get(f"{field_name}-data")
    if data:
        try:
            pem = base64.b64decode(str(data), validate=True)
        except (binascii.Error, ValueError):
            raise ConfigError(f"{path}: {field_name}-data is not base64") from None
    elif entry.get(field_name):
        pem = _read_bytes(path.parent / str(entry[field_name]), field_name)
    else:
        return None
    if b"-----BEGIN " not in pem:
        raise ConfigError(f"{path}: {field_name} holds no PEM block (-----BEGIN …)")
    return pem


def _read_bytes(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{what} {path} cannot be read: {error.strerror}") from None


def _kind(value: Any) -> str:
    return "empty" if value is None else f"a {type(value).__name__}"
