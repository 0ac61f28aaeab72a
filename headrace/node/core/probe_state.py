"""When a probe's answers add up to a change.

Owns the counting of successes and failures. Does not ask (shell/probes.py). Invariant: a
verdict changes only after as many equal answers in a row as its threshold says."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headrace.node.core.pod_spec import Probe


@dataclass(frozen=True, slots=True)
class ProbeCount:
    """Answers so far; `verdict` is None before the first threshold is reached."""

    verdict: bool | None = None
    run_length: int = 0
    last: bool | None = None


def count(state: ProbeCount, probe: Probe, is_success: bool) -> ProbeCount:
    """Return the count after one more answer."""
    length = state.run_length + 1 if state.last is is_success else 1
    threshold = probe.success_threshold if is_success else probe.failure_threshold
    verdict = is_success if length >= threshold else state.verdict
    return replace(state, verdict=verdict, run_length=length, last=is_success)
