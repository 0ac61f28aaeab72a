"""kopf as a source of events: logged in from our configuration, one leader by Lease instead of peering.

Owns the settings every Headrace operator shares. Handlers registered here only enqueue keys; nothing is stored on
the objects (kopf's `on.event` handlers keep no progress annotations). kopf's peering is not used: two operators of
equal priority would freeze each other (kopf docs, peering).
"""

import asyncio
from typing import cast

import kopf

from kube.config import ClusterConfig

WATCH_SERVER_TIMEOUT_SECONDS = 300
WATCH_SILENCE_SECONDS = 360
"""A watch connection older than this is renewed; below it kopf relists by itself."""
EXIT_SECONDS = 15.0
"""kopf ends the process itself when a stop takes longer; its own default is ten minutes, and supervisors wait less."""


class _NoDiffs(kopf.DiffBaseStorage):
    """Keeps nothing to compare with: kopf would copy every object for it, and `on.event` handlers see no difference."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return cast(kopf.BodyEssence, {})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        return


def new_registry(config: ClusterConfig) -> kopf.OperatorRegistry:
    """Return a registry whose login uses `config`."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: object) -> kopf.ConnectionInfo:
        token = config.token
        if token is None and config.token_file is not None:
            token = config.token_file.read_text().strip()
        return kopf.ConnectionInfo(
            server=config.server,
            ca_data=config.ca_pem,
            insecure=config.insecure_skip_tls_verify or None,
            certificate_data=config.client_cert_pem,
            private_key_data=config.client_key_pem,
            token=token,
        )

    return registry


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.persistence.diffbase_storage = _NoDiffs()
    settings.watching.server_timeout = WATCH_SERVER_TIMEOUT_SECONDS
    settings.watching.client_timeout = WATCH_SILENCE_SECONDS
    settings.scanning.disabled = False
    settings.process.ultimate_exiting_timeout = EXIT_SECONDS
    return settings


async def run_operator(registry: kopf.OperatorRegistry, ready: asyncio.Event) -> None:
    """Deliver events to the registry's handlers until cancelled; `ready` is set once kopf has started."""
    await kopf.operator(
        registry=registry,
        settings=_settings(),
        standalone=True,
        clusterwide=True,
        ready_flag=ready,
    )
