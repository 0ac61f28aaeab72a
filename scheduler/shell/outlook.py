"""A pending pod's outlook for whoever asks, scheduler running or not: the cluster read once, and judged.

Owns the reading. Does not bind, write or keep anything.
"""

import time
from collections.abc import Sequence

from api import names
from kube.client import KubeClient
from kube.errors import NotFound
from kube.objects import Pod
from scheduler.core.engine import Engine
from scheduler.core.events import Event
from scheduler.core.outlook import Outlook, outlook
from scheduler.core.pod_request import ShapeCache, pod_request
from scheduler.plugins.registry import build
from scheduler.settings import Settings, engine_settings
from scheduler.shell.translate import PodTranslator
from scheduler.shell.watches import Kind, kinds


async def outlooks(client: KubeClient, pods: Sequence[Pod]) -> list[Outlook]:
    """What stands between each of these pods and the cluster's nodes now. Raises KubeError."""
    settings = Settings()
    engine = Engine(build(settings), engine_settings(settings))
    now = time.time()
    # Others that wait count too: they are the pods' gangs, and nominated ones hold room.
    ours = {names.DEFAULT_SCHEDULER_NAME, *(pod.spec.scheduler_name for pod in pods)}
    for kind in kinds(PodTranslator(ours, 0.0)):
        engine.handle(await _listed(client, kind), now)
    shapes = ShapeCache()
    return [outlook(engine.state, pod_request(pod, shapes), now) for pod in pods]


async def _listed(client: KubeClient, kind: Kind) -> list[Event]:
    """One kind's objects; none of an optional kind that is not served."""
    for resource in (kind.resource, *kind.older):
        try:
            found = await client.list(resource, decode=kind.decode)
        except NotFound:
            if not kind.is_optional:
                raise
            continue
        return [event for item in found.items if (event := kind.changed(item)) is not None]
    return []
