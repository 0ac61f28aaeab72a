"""TLS context of a ClusterConfig.

Owns how certificates reach OpenSSL. Invariant: a private key is never written to a disk;
OpenSSL reads it from an anonymous memory file.
"""

import os
import ssl

from kube.config import ClusterConfig
from kube.errors import ConfigError


def tls_context(config: ClusterConfig) -> ssl.SSLContext | None:
    """The context to connect with, or None for plain http.

    Raises ConfigError when a certificate or key cannot be used.
    """
    if not config.server.startswith("https://"):
        return None
    try:
        context = ssl.create_default_context(
            cadata=config.ca_pem.decode("ascii") if config.ca_pem is not None else None
        )
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"the certificate authority of {config.server} cannot be used: {error}") from None
    if config.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.client_cert_pem is not None and config.client_key_pem is not None:
        _load_client_certificate(context, config.client_cert_pem, config.client_key_pem, config.server)
    return context


def _load_client_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes, server: str) -> None:
    descriptor = os.memfd_create("client-certificate", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as memory:
            memory.write(certificate.rstrip(b"\n") + b"\n" + key)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_refuse_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(f"the client certificate for {server} cannot be used: {reason}") from None
    finally:
        os.close(descriptor)


def _refuse_password() -> str:
    # Without this OpenSSL would ask on the terminal and hang a daemon.
    return ""
