"""Attribute a failed run to the request or to the model.

Some inputs that have the right names, shapes and dtypes are still invalid: an index beyond a table, a length that a Reshape
cannot divide. Only the runtime detects them. After a failed run, the session scores a known good input:

    it fails too      the model is at fault: the failure is passed on
    it succeeds       the request is run once more, unless the runtime itself called the input invalid;
                      if it fails again, the request is at fault: `SamplesError`, a 400

A known good input is a golden sample of the package, or else the first input that was scored.
"""

from __future__ import annotations

from accel.backends.backend import Session
from edgewright.contracts.samples import Tensors
from edgewright.errors import EdgewrightError, InferenceError, SamplesError


class FaultAttribution:
    """A session that raises `SamplesError` if only the values of the input make a run fail."""

    def __init__(self, session: Session, known_good: Tensors | None = None) -> None:
        self._session = session
        self._known_good = known_good

    def run(self, inputs: Tensors) -> Tensors:
        """Score a batch; see `Session.run`.

        Raises:
            SamplesError: the runtime rejects the values of the inputs.
            InferenceError: the run failed, and the model is at fault.
        """
        try:
            outputs = self._session.run(inputs)
        except InferenceError as error:
            return self._attributed(inputs, error)
        if self._known_good is None:
            self._known_good = inputs
        return outputs

    def describe(self) -> dict[str, str]:
        """Return human-readable facts about the running software; see `Session.describe`."""
        return self._session.describe()

    def close(self) -> None:
        """Close the session."""
        self._session.close()

    def _attributed(self, inputs: Tensors, error: InferenceError) -> Tensors:
        if not self._model_works(error):
            raise InferenceError("the model", error.reason) from error  # without the path of the graph on this machine
        if not error.rejects_input:
            try:
                return self._session.run(inputs)  # the failure may have been transient
            except InferenceError as again:
                error = again
        raise SamplesError(f"the model cannot score these values: {error.reason}; send other values") from error

    def _model_works(self, error: InferenceError) -> bool:
        if self._known_good is None:
            return error.rejects_input
        try:
            self._session.run(self._known_good)
        except EdgewrightError:
            return False
        return True
