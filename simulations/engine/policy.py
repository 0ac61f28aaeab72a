"""What a policy is to the engine: plugins and settings of the real core, and how binds of a gang are treated."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from scheduler.core.engine import Engine
from scheduler.core.placement import Plugins
from scheduler.settings import Settings


class Gangs(StrEnum):
    """How the pods of a job come to their nodes."""

    WHOLE = "whole"  # the core places gangs
    PERMIT = "permit"  # pod by pod; those placed hold their room until all are, or for PERMIT_SECONDS (coscheduling)
    NONE = "none"  # pod by pod, each starts to hold its room for good; the job starts with its last pod


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy. `names_data`: pods tell what they read. `labels_data`: nodes with some of a dataset have a label, and
    pods get the node affinity Fluid's webhook injects. `workers`: each dataset is cached on that many nodes only, or on
    as many as it takes to hold it, and readers keep nothing (Fluid as deployed); 0: readers' nodes keep what they read
    (Headrace's cache). `prepare` changes the engine before its first event."""

    name: str
    about: str
    plugins: Callable[[Settings], Plugins]
    gangs: Gangs = Gangs.WHOLE
    names_data: bool = False
    labels_data: bool = False
    workers: int = 0
    prepare: Callable[[Engine, Random], None] | None = None
