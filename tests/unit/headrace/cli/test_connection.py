"""The API server's refusals, one sentence a field."""

from __future__ import annotations

import pytest

from headrace.cli.connection import sentences
from kube.errors import Invalid


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            'TrainingJob.training.headrace.dev "x" is invalid: spec.framework: Unsupported value: "Abacus"',
            ['spec.framework: Unsupported value: "Abacus"'],
        ),
        (
            'TrainingJob.training.headrace.dev "x" is invalid: [spec.framework: Unsupported value: "A": supported '
            'values: "JAX", "MPI", spec.replicaSpecs: Invalid value: 0: too few, spec.jax.port: bad]',
            [
                'spec.framework: Unsupported value: "A": supported values: "JAX", "MPI"',
                "spec.replicaSpecs: Invalid value: 0: too few",
                "spec.jax.port: bad",
            ],
        ),
        (
            'TrainingJob in version "v1alpha1" cannot be handled as a TrainingJob: strict decoding error: unknown '
            'field "spec.replicaSpec", unknown field "spec.jaxx"',
            [
                "spec.replicaSpec: there is no such field; check its spelling",
                "spec.jaxx: there is no such field; check its spelling",
            ],
        ),
        (
            "trainingjobs.training.headrace.dev \"x\" is forbidden: ValidatingAdmissionPolicy 'a' with binding 'a' "
            "denied request: spec.replicaSpecs: dependsOn closes a circle",
            ["spec.replicaSpecs: dependsOn closes a circle"],
        ),
        ("something else", ["something else"]),
    ],
)
def test_one_sentence_a_field(message: str, expected: list[str]) -> None:
    assert sentences(Invalid(422, "Invalid", message)) == expected
