"""The scheduler's verdict on one pod, as written to the decision annotation and read by the CLI.

Owns the JSON shape of `names.DECISION_ANNOTATION`. Bytes and seconds are what was expected at decision time.
"""

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class SourceBytes(BaseModel):
    """Where the bytes of a pod's data were expected to come from."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    local: dict[str, int] = Field(default_factory=dict, description="bytes on the node itself, by medium")
    peers: int = Field(default=0, description="bytes resident on other nodes only")
    origin: int = Field(default=0, description="bytes resident nowhere")


class Candidate(BaseModel):
    """One node as the scheduler saw it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    node: str
    stage_in_seconds: float = Field(description="expected seconds until the pod's data is local")
    bytes_by_source: SourceBytes = Field(default_factory=SourceBytes)


class Decision(Candidate):
    """The chosen node, the runner-up, and the coldest feasible node for comparison."""

    feasible_nodes: int = Field(default=0, description="nodes that could run the pod")
    total_nodes: int = Field(default=0, description="nodes looked at")
    runner_up: Candidate | None = None
    coldest: Candidate | None = Field(default=None, description="what the worst feasible node would have cost")
    gang: str | None = Field(default=None, description="namespace/name of the PodGroup, if any")
