"""Frameworks by the name in `spec.framework`. A new one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping

from jobcontroller.core.framework import Framework
from jobcontroller.frameworks.custom import Custom
from jobcontroller.frameworks.jax import Jax
from jobcontroller.frameworks.mpi import Mpi
from jobcontroller.frameworks.paddle import Paddle
from jobcontroller.frameworks.pytorch import PyTorch
from jobcontroller.frameworks.tensorflow import TensorFlow
from jobcontroller.frameworks.xgboost import XGBoost

FRAMEWORKS: Mapping[str, Framework] = {
    framework.name: framework for framework in (Custom(), Jax(), Mpi(), Paddle(), PyTorch(), TensorFlow(), XGBoost())
}
