"""A result as JSON keeps it, and back: what `headrace sim run -o json` wrote is shown and drawn again without a run.

Owns the shape of that file. Infinite values of a scenario are its defaults and are left out: JSON has no word for them.
"""

import math
from typing import Any, Final

from pydantic import ValidationError

from simulations.engine.outcome import Outcome, Picture
from simulations.errors import ScenarioError
from simulations.run import Result
from simulations.scenarios.schema import Scenario

NOT_ONE: Final = "is not what `headrace sim run … -o json` writes; run it again"


def as_values(result: Result) -> dict[str, Any]:
    """Everything but single jobs, as plain values."""
    return {
        "scenario": _finite(result.scenario.model_dump(mode="json")),
        "traces": list(result.traces),
        "wall_seconds": result.wall_seconds,
        "about": result.about,
        "notes": list(result.notes),
        "runs": {name: [run.as_json() for run in runs] for name, runs in result.runs.items()},
    }


def result_of(kept: Any) -> Result:
    """The result of which `as_values` made these. Raises ScenarioError when they are something else."""
    try:
        runs = {name: [_outcome(run) for run in runs] for name, runs in kept["runs"].items()}
        if not all(runs.values()):
            raise ValueError("a policy has no run")
        return Result(
            Scenario.model_validate(kept["scenario"]),
            tuple(kept["traces"]),
            runs,
            dict(kept["wall_seconds"]),
            dict(kept["about"]),
            tuple(kept["notes"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, ValidationError) as error:
        raise ScenarioError(f"it {NOT_ONE} ({type(error).__name__}: {str(error).splitlines()[0]})") from None


def _outcome(run: dict[str, Any]) -> Outcome:
    pictures = [Picture(**picture) for picture in run.get("pictures", ())]
    return Outcome(**{**run, "pictures": pictures, "jobs": []})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items() if not _is_infinite(item)}
    return [_finite(item) for item in value] if isinstance(value, list) else value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)
