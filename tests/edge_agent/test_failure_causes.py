"""The class of a failure decides whether other devices are kept from a version: only what is about the package may."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from edge_agent.workers.requests import CheckRequest
from edge_agent.workers.worker import Failure, cause_of, cause_of_end, run_worker
from edgewright import errors
from edgewright.contracts.messages import FailureCause
from tests.support.tiny_variants import make_variant


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (errors.PackageError, FailureCause.PACKAGE),
        (errors.ModelError, FailureCause.PACKAGE),
        (errors.SamplesError, FailureCause.PACKAGE),
        (errors.MessageError, FailureCause.PACKAGE),
        (errors.SignatureError, FailureCause.TRUST),
        (errors.DeniedError, FailureCause.TRUST),
        (errors.UnreachableError, FailureCause.NETWORK),
        (errors.ConflictError, FailureCause.CALLER),
        (errors.StorageFullError, FailureCause.DEVICE),
        (errors.OperationError, FailureCause.DEVICE),
        (errors.NotFoundError, FailureCause.DEVICE),
        (errors.ProfileError, FailureCause.DEVICE),
        (errors.BadInputError, FailureCause.DEVICE),
    ],
)
def test_each_class_of_errors_has_its_cause(error: type[errors.EdgewrightError], cause: FailureCause) -> None:
    assert cause_of(error("text")) is cause


@pytest.mark.parametrize(
    ("exit_code", "cause"),
    [
        pytest.param(-signal.SIGKILL, FailureCause.DEVICE, id="killed, as the kernel does without memory"),
        pytest.param(-signal.SIGTERM, FailureCause.DEVICE, id="terminated"),
        pytest.param(-signal.SIGSEGV, FailureCause.PACKAGE, id="segmentation fault"),
        pytest.param(-signal.SIGABRT, FailureCause.PACKAGE, id="aborted"),
        pytest.param(-signal.SIGILL, FailureCause.PACKAGE, id="illegal instruction"),
        pytest.param(1, FailureCause.DEVICE, id="a defect of ours"),
    ],
)
def test_a_process_that_was_killed_is_no_evidence_against_the_package(exit_code: int, cause: FailureCause) -> None:
    assert cause_of_end(exit_code) is cause


def test_a_check_with_a_backend_that_this_device_lacks_is_of_the_device(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "v")
    request = CheckRequest(slot=str(variant.path), backend="no-such-backend", threads=None)
    result = asyncio.run(run_worker("edge_agent.packages.check", request, timeout_s=60))
    assert (result.failure, result.cause) == (Failure.REFUSED, FailureCause.DEVICE)


def test_a_worker_that_takes_too_long_is_of_the_device(tmp_path: Path) -> None:
    request = CheckRequest(slot=str(tmp_path), backend="auto", threads=None)
    result = asyncio.run(run_worker("edge_agent.packages.check", request, timeout_s=0.01))
    assert (result.failure, result.cause) == (Failure.TIMED_OUT, FailureCause.DEVICE)


def test_a_check_that_needs_too_much_memory_is_ended_and_is_of_the_device(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "v")
    request = CheckRequest(slot=str(variant.path), backend="auto", threads=None)
    result = asyncio.run(run_worker("edge_agent.packages.check", request, timeout_s=60, memory_share=1e-4))
    assert (result.failure, result.cause) == (Failure.OVER_MEMORY, FailureCause.DEVICE)
    assert result.reason.startswith("needs more memory than the ")


def test_a_check_within_its_share_of_memory_has_a_result(tmp_path: Path) -> None:
    variant = make_variant(tmp_path / "v")
    request = CheckRequest(slot=str(variant.path), backend="auto", threads=None)
    result = asyncio.run(run_worker("edge_agent.packages.check", request, timeout_s=60, memory_share=0.75))
    assert result.failure is None, result.reason
