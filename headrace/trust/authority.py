"""The authority behind the parts' identities, and the keys tokens are signed with.

Owns one folder:

    ca.crt        every certificate of an authority that is believed, PEM
    issuer.crt    the one that signs now, with its key in issuer.key
    token-keys/   private keys of tokens, NAME.pem; the metadata service signs with the last name

Invariants: what is believed has the issuer's certificate in it; files are the owner's only, and are replaced whole. Who
has issuer.key or a token key can be anybody: neither leaves this folder but to the metadata service (token keys).
"""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from api.trust.files import only_identity
from api.trust.identity import Identity
from headrace.cluster import pki
from headrace.cluster.state import write_private
from headrace.errors import UsageError

LEAF_DAYS = 90
RENEW_DAYS = 30
TOKEN_KEYS = "token-keys"


class TrustAuthority:
    """One folder; made with its first issuer and token key when it is not there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca, self._cert, self._key = folder / "ca.crt", folder / "issuer.crt", folder / "issuer.key"
        self.token_keys = folder / TOKEN_KEYS
        for each in (folder, self.token_keys):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._has_issuer():
            self.add_issuer()
        if not any(self.token_keys.glob("*.pem")):
            self.add_token_key()

    def issue(self, identity: Identity, into: Path, *, days: int = LEAF_DAYS) -> bool:
        """Have a certificate of that identity in the folder `into`; False when the one there is still good."""
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._is_good(identity, into):
            return False
        issuer = x509.load_pem_x509_certificate(self._cert.read_bytes())
        issuer_key = pki.load_key(self._key)
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{identity.role}/{identity.name}"[:64])])
        names: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(identity.uri),
            x509.DNSName(identity.server_name),
        ]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = pki.builder(subject, issuer.subject, key.public_key(), days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(pki.key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(issuer_key, hashes.SHA256())
        # In this order a reader that comes in between believes both authorities, and sees that key and leaf differ.
        write_private(into / "ca.crt", self._ca.read_bytes())
        write_private(into / "tls.key", pki.key_pem(key))
        write_private(into / "tls.crt", leaf.public_bytes(serialization.Encoding.PEM))
        return True

    def _has_issuer(self) -> bool:
        """Whether there is one; a crash between its two files leaves none."""
        if not (self._cert.exists() and self._key.exists()):
            return False
        return (
            x509.load_pem_x509_certificate(self._cert.read_bytes()).public_key() == pki.load_key(self._key).public_key()
        )

    def _is_good(self, identity: Identity, into: Path) -> bool:
        try:
            found = x509.load_pem_x509_certificate((into / "tls.crt").read_bytes())
            names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            known = only_identity(names.get_values_for_type(x509.UniformResourceIdentifier))
            is_ours = known == identity and pki.load_key(into / "tls.key").public_key() == found.public_key()
            believed = (into / "ca.crt").read_bytes()
            found.verify_directly_issued_by(x509.load_pem_x509_certificate(self._cert.read_bytes()))
        except Exception:  # noqa: BLE001  # whatever is wrong with it, a new one is made
            return False
        left = found.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
        return is_ours and believed == self._ca.read_bytes() and left > datetime.timedelta(days=RENEW_DAYS)

    def add_issuer(self) -> None:
        """Sign with a new authority from now on; the ones before are believed until `forget_issuers`. Parts must have
        the new `ca.crt` before they meet a certificate of it."""
        cert, key = pki.self_signed(f"trust-{datetime.datetime.now(datetime.UTC):%Y%m%d%H%M%S%f}")
        pem = cert.public_bytes(serialization.Encoding.PEM)
        write_private(self._ca, pem + (self._ca.read_bytes() if self._ca.exists() else b""))
        write_private(self._key, pki.key_pem(key))
        write_private(self._cert, pem)

    def forget_issuers(self) -> None:
        """Believe only the authority that signs now: for when every part has a certificate of it."""
        write_private(self._ca, self._cert.read_bytes())

    def add_token_key(self) -> Path:
        """Make a key; the metadata service signs with it once workers had the time to learn of it."""
        path = self.token_keys / f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S-%f}.pem"
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        write_private(path, Ed25519PrivateKey.generate().private_bytes(*form))
        return path

    def forget_token_keys(self) -> int:
        """Remove all token keys but the last: tokens of the others are refused from then on. Returns how many."""
        old = sorted(self.token_keys.glob("*.pem"))[:-1]
        for path in old:
            path.unlink()
        return len(old)

    def trust_only(self, into: Path) -> None:
        """Bring `ca.crt` of an issued folder up to date and leave its certificate: a rotation's first step."""
        if not (into / "tls.crt").exists():
            raise UsageError(f"{into} has no certificate; issue one first")
        write_private(into / "ca.crt", self._ca.read_bytes())
