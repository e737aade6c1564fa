"""The table of benchmarks/serving.py: the best round of each server, and ratios within the same work."""

from __future__ import annotations

from typing import Any

from edgewright.command_line import print_table

REFERENCE = "azureml"


def print_results(works: dict[str, str], results: dict[str, list[dict[str, Any]]]) -> None:
    """Print one line per server, and then the ratios to the reference of its work."""
    best = {name: best_of(rounds) for name, rounds in results.items()}
    columns = (
        "SERVER",
        "PER_S_16",
        "P50_MS_16",
        "P99_MS_16",
        "CPU_US_16",
        "P50_MS_1",
        "P99_MS_1",
        "START_S",
        "PSS_MIB",
        "FAILURES",
    )
    print_table(columns, [line(name, row) for name, row in best.items()])
    references = {works[name]: row for name, row in best.items() if name.startswith(REFERENCE)}
    compared = {name: row for name, row in best.items() if works[name] in references}
    print_table(
        ("SERVER", "REQUESTS_RATIO", "P99_RATIO", "REQUESTS_PER_CPU_S_RATIO"),
        [ratios(name, row, references[works[name]]) for name, row in compared.items()],
    )


def print_beside(alone_us: int, results: dict[str, list[dict[str, Any]]]) -> None:
    """Print the processor time of the script alone, and that of each server beside it, for a request on 16 connections."""
    print(f"run() of the script alone: {alone_us} us of processor time")
    for name, rounds in results.items():
        print(f"{name} beside it: {best_of(rounds)['c16']['cpu_us'] - alone_us} us")


def best_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the best figure of each kind over the rounds."""
    best: dict[str, Any] = {name: min(each[name] for each in rounds) for name in ("start_s", "pss_mib")}
    for load in ("c16", "c1"):
        best[load] = {name: min(each[load][name] for each in rounds) for name in ("p50_ms", "p99_ms", "cpu_us")}
        best[load]["per_s"] = max(each[load]["per_s"] for each in rounds)
        best[load]["failures"] = sum(each[load]["failures"] for each in rounds)
    return best


def line(name: str, row: dict[str, Any]) -> tuple[object, ...]:
    """Return the figures of one server."""
    many, one = row["c16"], row["c1"]
    failures = many["failures"] + one["failures"]
    latencies = (many["p50_ms"], many["p99_ms"], many["cpu_us"], one["p50_ms"], one["p99_ms"])
    return (name, many["per_s"], *latencies, row["start_s"], row["pss_mib"], failures)


def ratios(name: str, row: dict[str, Any], reference: dict[str, Any]) -> tuple[object, ...]:
    """Return requests, p99 and requests per CPU-second of one server, divided by those of the reference."""
    many, other = row["c16"], reference["c16"]
    pairs = ((many["per_s"], other["per_s"]), (many["p99_ms"], other["p99_ms"]), (other["cpu_us"], many["cpu_us"]))
    return (name, *(round(own / theirs, 3) if theirs else None for own, theirs in pairs))
