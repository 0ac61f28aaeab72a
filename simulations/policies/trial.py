"""Changes of Headrace's policy that are tried here before the scheduler has them.

Owns `spread_plugins`. gpu_fit packs pods whose data is nowhere onto the fullest nodes; when the next pods come for that
data, those nodes have no GPU left, and the bytes are fetched once more. With less of it nodes stay partly free, which
large gangs pay for: docs/evidence.md has both sides.
"""

from scheduler.core.placement import Plugins
from scheduler.plugins.registry import build
from scheduler.settings import Settings

GPU_FIT_SHARE = 0.1


def spread_plugins(settings: Settings) -> Plugins:
    """Headrace's plugins with a tenth of gpu_fit's weight."""
    weights = settings.weights.model_copy(update={"gpu_fit": settings.weights.gpu_fit * GPU_FIT_SHARE})
    return build(settings.model_copy(update={"weights": weights}))
