from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from edgewright.errors import EdgewrightError, NotFoundError
from edgewright.worker_process import WorkerEndedError, WorkerProcess, WorkerTimeoutError, describe_end, read_answer


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    with WorkerProcess("tests.support.echo_worker", subject="pets") as process:
        yield process


def ask(worker: WorkerProcess, action: str, limit_s: float = 60) -> bytes:
    return worker.ask(b'{"action": "%s"}' % action.encode(), limit_s=limit_s)


def test_a_worker_answers_one_request_after_the_other(worker: WorkerProcess) -> None:
    assert ask(worker, "echo") == b'{"action": "echo"}'
    assert ask(worker, "again") == b'{"action": "again"}'


def test_prints_of_libraries_and_programs_do_not_mix_with_the_answer(worker: WorkerProcess) -> None:
    assert ask(worker, "print") == b'{"action": "print"}'


def test_an_error_of_the_worker_is_raised_again_as_its_nearest_public_class(worker: WorkerProcess) -> None:
    with pytest.raises(NotFoundError) as raised:
        ask(worker, "fail")
    assert (type(raised.value), str(raised.value)) == (NotFoundError, "pets has\nno version 7")


@pytest.mark.parametrize(
    ("action", "message"),
    [
        pytest.param("crash", "pets: the worker process ended with exit code 1: out of luck", id="exit"),
        pytest.param("kill", "pets: the worker process was ended by SIGKILL", id="signal"),
    ],
)
def test_a_worker_that_ends_without_an_answer_is_described(worker: WorkerProcess, action: str, message: str) -> None:
    with pytest.raises(WorkerEndedError) as raised:
        ask(worker, action)
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("number", "text"),
    [
        pytest.param(signal.SIGKILL, "was ended by SIGKILL", id="killed: its last line is no reason"),
        pytest.param(signal.SIGABRT, "was ended by SIGABRT: terminate called", id="aborted: its last line is the reason"),
    ],
)
def test_the_last_line_explains_only_an_end_that_the_process_knew_of(number: signal.Signals, text: str) -> None:
    assert describe_end(-number, "a warning\nterminate called\n") == text


def test_a_worker_that_ended_earlier_is_described_at_the_next_request(worker: WorkerProcess) -> None:
    with pytest.raises(NotFoundError):
        ask(worker, "fail")
    with pytest.raises(WorkerEndedError, match="pets: the worker process ended with exit code 0"):
        ask(worker, "echo")


def test_a_worker_that_hangs_is_ended_at_its_time_limit(worker: WorkerProcess) -> None:
    ask(worker, "echo")
    with pytest.raises(WorkerTimeoutError, match="pets: the worker process must answer within 1 s, but it did not"):
        ask(worker, "hang", limit_s=1)


@pytest.mark.parametrize("line", [pytest.param(b"", id="empty"), pytest.param(b"hello\n", id="a print")])
def test_a_line_that_is_not_an_answer_is_an_error(line: bytes) -> None:
    with pytest.raises(EdgewrightError, match="the worker must write a response, but it wrote"):
        read_answer(line)
