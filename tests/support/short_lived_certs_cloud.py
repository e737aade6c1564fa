"""A cloud whose device certificates live for seconds: what the command line does not offer, the settings allow.

Run as a program it is that cloud; `brief` runs it.
"""

from __future__ import annotations

import json
import logging
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from cloud.service import Settings, Started, run
from tests.support.running_cloud import RunningCloud, ending, launch

DAY_S = 86400.0


def brief(state: Path, publisher: Path, life_s: float, *options: str) -> AbstractContextManager[RunningCloud]:
    """Give a running cloud; the one option that there is is `--no-broker`."""
    command = [sys.executable, "-m", "tests.support.short_lived_certs_cloud", str(state), str(publisher), str(life_s), *options]
    return ending(launch(command, state))


def announce(started: Started) -> None:
    broker = {"host": started.broker.host, "port": started.broker.port} if started.broker else None
    print(json.dumps({"url": started.url, "broker": broker}, indent=2), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    place, key, life, *rest = sys.argv[1:]
    chosen = Settings(
        state=Path(place), port=0, trust=(Path(key),), with_broker="--no-broker" not in rest, device_days=float(life) / DAY_S
    )
    run(chosen, announce)
