"""Settings of the metadata service: command line over environment (`HEADRACE_METADATA_…`) over defaults.

Owns names, units, defaults and their reasons; validated before anything starts.
"""

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


def parse_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (an IPv6 host in brackets); ValueError says what would be right."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r} is not HOST:PORT; write it like 127.0.0.1:7100")
    return host, int(port)


class MetadataSettings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(env_prefix="HEADRACE_METADATA_", extra="forbid")

    listen: str = "127.0.0.1:7100"
    """gRPC address; port 0 takes a free one, which the log names. Without `trust` plaintext, for loopback only."""
    store: str
    """Database URL: sqlite:///absolute/path.db, or postgresql://USER@HOST:PORT/DATABASE?passfile=FILE (libpq's form;
    a password in the URL is refused)."""
    trust: Path | None = None
    """Folder with ca.crt, tls.crt and tls.key of this service; then callers must show a certificate too, and may do
    what docs/SECURITY.md says. None = everybody may do everything."""
    token_keys: Path | None = None
    """Folder of Ed25519 private keys, NAME.pem, tokens are signed with; goes with `trust`."""
    token_seconds: Annotated[int, Field(ge=2, le=86_400)] = 3_600
    """How long a token is good; bearers get the next one at half of it, so the service may be away for half of it."""
    token_key_settle_seconds: Annotated[float, Field(ge=0, le=86_400)] = 90.0
    """A new key signs only after workers had the time to learn of it (they ask every 30 s), and other instances of
    this service to see its file."""
    credentials_dir: Path | None = None
    """Folder of credential files, <namespace>/<secret>/<key>; none = mounts with secret options fail."""
    metrics: str | None = None
    """HOST:PORT of /metrics, /healthz and /readyz; none = they are not served."""
    lease_seconds: Annotated[float, Field(gt=0, le=300)] = 3.0
    """A worker that does not report for so long is dead: short, so that no pod is sent to bytes that are gone;
    three times the workers' reporting interval, so that one lost report does no harm."""
    listing_requests: Annotated[int, Field(ge=1, le=64)] = 8
    """List requests to one mount at a time: enough to hide a store's 50-100 ms a page behind the parsing."""
    kept_versions: Annotated[int, Field(ge=1)] = 1_000
    """Snapshot versions whose removed entries are kept."""
    shutdown_seconds: Annotated[float, Field(ge=0, le=300)] = 5.0
    """How long calls under way may take after SIGTERM."""
    fence_settle_seconds: Annotated[float, Field(ge=0, le=60)] = 4.0
    """More than a worker's HEADRACE_WORKER_DATASET_SECONDS: no worker goes by a record of a dataset that is older."""

    @model_validator(mode="after")
    def _has_both(self) -> Self:
        if (self.trust is None) != (self.token_keys is None):
            raise ValueError("trust and token_keys go together; give both folders or none")
        return self

    @field_validator("listen", "metrics")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None:
            parse_address(value)
        return value
