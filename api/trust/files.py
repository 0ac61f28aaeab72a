"""A part's own certificate and whom it believes, from a folder that may change at any time.

Owns reading `ca.crt`, `tls.crt` and `tls.key` (the names Kubernetes and cert-manager give them) and what TLS is made of
them: contexts for sockets, credentials for gRPC. Invariants: the three files in use belong together, so a reader never
sees half of a change; a change that makes no sense leaves the last good files in use, and is logged and counted once;
private keys are in no message.
"""

import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from prometheus_client import Counter

from api.trust.identity import Identity, NotAnIdentity, parse_identity

CHECK_SECONDS: Final = 1.0
"""How old what we know of the folder may be."""
NAMES: Final = ("ca.crt", "tls.crt", "tls.key")

REFUSED_FILES = Counter(
    "headrace_trust_refused_files", "Changes of the certificate folder that were not taken: the old files stay in use."
)
log = structlog.get_logger()


class TrustError(Exception):
    """A certificate folder that cannot be used; one sentence."""


@dataclass(frozen=True, slots=True, repr=False)
class Snapshot:
    """Three files that belong together, and whose they are. `number` counts the changes."""

    number: int
    identity: Identity
    ca: bytes
    chain: bytes
    key: bytes


class TrustFiles:
    """One folder; safe to use from threads (gRPC asks from its own)."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the folder; TrustError when it cannot be used."""
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._stamp = self._look()
        self._snapshot = _read(folder, 1)
        self._looked_at = clock()
        self._server_contexts: tuple[int, ssl.SSLContext] | None = None
        self._client_contexts: tuple[int, ssl.SSLContext] | None = None

    @classmethod
    def of(cls, folder: Path | None, who: Identity) -> "TrustFiles | None":
        """Read the folder a process was given, whose certificate must be of `who`; None when it was given none.
        TrustError."""
        if folder is None:
            return None
        trust = cls(folder)
        if trust.identity != who:
            raise TrustError(f"{folder} is of {trust.identity}, and this is {who}")
        return trust

    @property
    def identity(self) -> Identity:
        """Who we are. It does not change with the certificate."""
        return self._snapshot.identity

    def current(self) -> Snapshot:
        """Return the files as they are now; a change is seen within CHECK_SECONDS."""
        now = self._clock()
        if now - self._looked_at < CHECK_SECONDS:
            return self._snapshot
        with self._lock:
            if now - self._looked_at < CHECK_SECONDS:
                return self._snapshot
            self._looked_at = now
            try:
                stamp = self._look()
                if stamp == self._stamp:
                    return self._snapshot
                fresh = _read(self._folder, self._snapshot.number + 1)
                if fresh.identity != self._snapshot.identity:
                    raise TrustError(
                        f"tls.crt in {self._folder} is of {fresh.identity}, and this process is {self.identity}; "
                        "restart it to make it another"
                    )
            except TrustError as error:
                self._refuse(str(error))
                return self._snapshot
            self._stamp, self._snapshot = stamp, fresh
            self._told = ""
            log.info("certificates_changed", folder=str(self._folder), number=fresh.number, identity=fresh.identity.uri)
            return fresh

    _told = ""

    def _refuse(self, message: str) -> None:
        # A change is several writes, and between them this is what there is to see: said once, tried again.
        if message != self._told:
            self._told = message
            REFUSED_FILES.inc()
            log.warning("certificates_not_taken", error=message)

    def _look(self) -> tuple[tuple[int, int, int], ...]:
        try:
            found = [(self._folder / name).stat() for name in NAMES]
        except OSError as error:
            raise TrustError(f"{error.filename} cannot be read: {error.strerror}") from error
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)

    def server_context(self) -> ssl.SSLContext:
        """Return the context for sockets others connect to: they must show a certificate of our authority."""
        snapshot = self.current()
        if self._server_contexts is None or self._server_contexts[0] != snapshot.number:
            context = _context(snapshot, ssl.PROTOCOL_TLS_SERVER)
            context.num_tickets = 0  # connections last; nobody resumes one
            self._server_contexts = (snapshot.number, context)
        return self._server_contexts[1]

    def client_context(self) -> ssl.SSLContext:
        """Return the context for connecting; who answers is checked by `identity_of_peer`, not by host name."""
        snapshot = self.current()
        if self._client_contexts is None or self._client_contexts[0] != snapshot.number:
            self._client_contexts = (snapshot.number, _context(snapshot, ssl.PROTOCOL_TLS_CLIENT))
        return self._client_contexts[1]

    def grpc_server_credentials(self) -> grpc.ServerCredentials:
        """Return credentials that show, with each handshake, the certificate of that moment."""
        last = self.current()

        def configuration(snapshot: Snapshot) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration([(snapshot.key, snapshot.chain)], snapshot.ca)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            nonlocal last
            snapshot = self.current()
            if snapshot.number == last.number:
                return None
            last = snapshot
            return configuration(snapshot)

        # None stands for no change, which the types of grpc do not know.
        return grpc.dynamic_ssl_server_credentials(
            configuration(last),
            fetch,  # type: ignore[arg-type]
            require_client_authentication=True,
        )


def grpc_channel_credentials(snapshot: Snapshot) -> grpc.ChannelCredentials:
    """Return what a channel is opened with."""
    return grpc.ssl_channel_credentials(snapshot.ca, snapshot.key, snapshot.chain)


def identity_of_peer(certificate: object) -> Identity:
    """Return who is at the other end, by `getpeercert()` of a checked connection; NotAnIdentity."""
    names = certificate.get("subjectAltName", ()) if isinstance(certificate, dict) else ()
    return only_identity([value for kind, value in names if kind == "URI"])


def only_identity(uris: list[str]) -> Identity:
    """Return the identity of a certificate with these URIs; NotAnIdentity unless there is exactly one."""
    if len(uris) != 1:
        raise NotAnIdentity(f"a certificate must have one URI that says whose it is; this one has {len(uris)}")
    return parse_identity(uris[0])


def _read(folder: Path, number: int) -> Snapshot:
    try:
        ca, chain, key = ((folder / name).read_bytes() for name in NAMES)
    except OSError as error:
        raise TrustError(f"{error.filename} cannot be read: {error.strerror}") from error
    try:
        certificate = x509.load_pem_x509_certificate(chain)
        x509.load_pem_x509_certificates(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        identity = only_identity(names.get_values_for_type(x509.UniformResourceIdentifier))
    except (ValueError, x509.ExtensionNotFound) as error:
        raise TrustError(f"the certificates in {folder} cannot be used: {error}") from error
    try:
        public = load_pem_private_key(key, None).public_key()
    except (ValueError, TypeError):
        # The library's own text is not repeated: it has seen the key.
        raise TrustError(f"tls.key in {folder} is no private key in PEM without a passphrase") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if public.public_bytes(*form) != certificate.public_key().public_bytes(*form):
        raise TrustError(f"tls.key in {folder} is not the key of tls.crt there; both must be of one pair")
    return Snapshot(number, identity, ca, chain, key)


def _context(snapshot: Snapshot, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=snapshot.ca.decode())
    # The library reads files only. This one is memory, and has what was checked to belong together.
    descriptor = os.memfd_create("headrace-identity", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, snapshot.chain + b"\n" + snapshot.key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
