"""The cluster's certificate authorities and the certificates they sign.

Owns key and certificate files (mode 0600) in one folder. Two authorities: one
for the API server and its clients, one for etcd only, so that no client of the
API can talk to etcd. Invariant: an existing pair is kept until 30 days before it
ends or until what is asked of it changes, so kubeconfigs stay valid over restarts."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from headrace.cluster.state import write_private

CA_DAYS = 3650
LEAF_DAYS = 366
RENEW_DAYS = 30


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of one certificate and its private key."""

    cert: Path
    key: Path


class Authority:
    """One certificate authority, kept in `folder` as NAME.crt and NAME.key."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
        if not (self.pair.cert.exists() and self.pair.key.exists()):
            _write_pair(self.pair, *self_signed(name))
        self._cert = x509.load_pem_x509_certificate(self.pair.cert.read_bytes())
        self._key = load_key(self.pair.key)

    def server(self, name: str, hosts: Sequence[str]) -> Pair:
        """A certificate for a server reached under `hosts` (names and addresses)."""
        return self._issue(name, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), hosts)

    def client(self, name: str, user: str, groups: Sequence[str] = ()) -> Pair:
        """A certificate for a client: CN is the user, each O a group."""
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        attributes.append(x509.NameAttribute(NameOID.COMMON_NAME, user))
        return self._issue(name, x509.Name(attributes), ())

    def _issue(self, name: str, subject: x509.Name, hosts: Sequence[str]) -> Pair:
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        if self._still_good(pair, subject, hosts):
            return pair
        key = ec.generate_private_key(ec.SECP256R1())
        usage = ExtendedKeyUsageOID.SERVER_AUTH if hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        request = builder(subject, self._cert.subject, key.public_key(), LEAF_DAYS)
        request = request.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        request = request.add_extension(key_usage(signs_certificates=False), critical=True)
        request = request.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        request = request.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
        )
        if hosts:
            request = request.add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        _write_pair(pair, request.sign(self._key, hashes.SHA256()), key)
        return pair

    def _still_good(self, pair: Pair, subject: x509.Name, hosts: Sequence[str]) -> bool:
        if not (pair.cert.exists() and pair.key.exists()):
            return False
        cert = x509.load_pem_x509_certificate(pair.cert.read_bytes())
        if cert.issuer != self._cert.subject or cert.subject != subject:
            return False
        try:
            names = list(cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            names = []
        return names == _names(hosts) and cert.not_valid_after_utc - _now() > datetime.timedelta(days=RENEW_DAYS)


def signing_key(folder: Path, name: str) -> Pair:
    """A bare key pair for signing service account tokens; `cert` holds the public key in PEM."""
    pair = Pair(folder / f"{name}.pub", folder / f"{name}.key")
    if not (pair.cert.exists() and pair.key.exists()):
        key = ec.generate_private_key(ec.SECP256R1())
        write_private(pair.key, key_pem(key))
        write_private(
            pair.cert,
            key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        )
    return pair


def self_signed(name: str) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A new authority's certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"headrace-local-{name}")])
    request = builder(subject, subject, key.public_key(), CA_DAYS)
    request = request.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    request = request.add_extension(key_usage(signs_certificates=True), critical=True)
    return request.sign(key, hashes.SHA256()), key


def builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    """A certificate that is begun: names, key and its days."""
    now = _now()
    request = x509.CertificateBuilder(
        issuer_name=issuer,
        subject_name=subject,
        public_key=public_key,
        serial_number=x509.random_serial_number(),
        # An hour back: a clock that is set back a little must not invalidate a running cluster.
        not_valid_before=now - datetime.timedelta(hours=1),
        not_valid_after=now + datetime.timedelta(days=days),
    )
    return request.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    """What a key may be used for: by an authority, or by anybody else."""
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as it is kept in files."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read what `key_pem` made; OSError, ValueError, TypeError."""
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{path} holds a {type(key).__name__}, expected an elliptic-curve key")
    return key


def _write_pair(pair: Pair, cert: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    # A crash between the two leaves no certificate, so the pair is made again: never a mismatched one.
    pair.cert.unlink(missing_ok=True)
    write_private(pair.key, key_pem(key))
    write_private(pair.cert, cert.public_bytes(serialization.Encoding.PEM))
