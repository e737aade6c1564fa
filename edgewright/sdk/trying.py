"""Run a model once on its sample input, in a worker process, before it is registered.

The worker (`edgewright.try_model`) is started by name: this package reaches no training framework.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from edgewright.contracts import wire
from edgewright.contracts.models.registration import Framework, Registration
from edgewright.contracts.models.sample_input import TriedModel, TryRequest, read_sample_input
from edgewright.contracts.samples import write_npz
from edgewright.contracts.variant import LayerKind
from edgewright.errors import BadInputError, OperationError
from edgewright.worker_process import WorkerProcess

LIMIT_S = 300.0
_WORKER = "edgewright.try_model"
_SAME = (
    {Framework.KERAS, Framework.TENSORFLOW},
    {Framework.SKLEARN, Framework.LIGHTGBM},
    {Framework.SKLEARN, Framework.XGBOOST},
)
"""A Keras model is one of TensorFlow, too; boosting libraries save their estimators as scikit-learn does."""


@dataclass(frozen=True, slots=True)
class SampleOptions:
    """The file with a sample input, and permission to run code in the model's file."""

    path: Path
    trust: bool = False


@dataclass(frozen=True, slots=True)
class Tried:
    """The registration of a model that was run, and the golden sample: a file of inputs and a file of outputs."""

    registration: Registration
    golden: tuple[Path, Path]


def try_model(model: Path, registration: Registration, sample: SampleOptions, folder: Path) -> Tried:
    """Run `model` once; return its registration with framework and schema, and the golden sample, written into `folder`.

    Raises:
        BadInputError: the sample or the model cannot be used, the model fails, or it is of another framework.
        OperationError: the worker ended, or did not answer within five minutes.
    """
    given = read_sample_input(sample.path)
    inputs, outputs = folder / LayerKind.GOLDEN_INPUTS.file_name, folder / LayerKind.GOLDEN_OUTPUTS.file_name
    write_npz(inputs, given.arrays)
    request = TryRequest(
        model=str(model.resolve()),
        inputs=str(inputs.resolve()),
        outputs=str(outputs.resolve()),
        names=tuple(given.arrays),
        is_table=given.is_table,
        trust=sample.trust,
    )
    with WorkerProcess(_WORKER, subject=str(model)) as worker:
        answer = worker.ask(wire.encode(request), limit_s=LIMIT_S)
    tried = wire.decode(answer, TriedModel, what="the tried model", error=OperationError)
    framework = Framework(tried.framework)
    if registration.framework not in (Framework.CUSTOM, framework) and {registration.framework, framework} not in _SAME:
        raise BadInputError(f"the framework of {model} must be {framework}, not {registration.framework}")
    described = replace(
        registration,
        framework=framework if registration.framework is Framework.CUSTOM else registration.framework,
        framework_version=registration.framework_version or tried.framework_version,
        inputs=registration.inputs or tried.inputs,
        outputs=registration.outputs or tried.outputs,
    )
    return Tried(described, (inputs, outputs))
