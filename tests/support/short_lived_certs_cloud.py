"""A cloud whose device certificates are valid for seconds; the command line allows whole days only.

Run as a program, this module is that cloud; `running_with_short_lived_certs` starts it.
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


def running_with_short_lived_certs(
    state: Path, publisher: Path, life_s: float, *options: str
) -> AbstractContextManager[RunningCloud]:
    """Return a context with a running cloud; the only option is `--no-broker`."""
    command = [sys.executable, "-m", "tests.support.short_lived_certs_cloud", str(state), str(publisher), str(life_s), *options]
    return ending(launch(command, state))


def announce(started: Started) -> None:
    broker = {"host": started.broker.host, "port": started.broker.port} if started.broker else None
    print(json.dumps({"url": started.url, "broker": broker}, indent=2), flush=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    state_path, key, life, *options = sys.argv[1:]
    settings = Settings(
        state=Path(state_path),
        port=0,
        trust=(Path(key),),
        with_broker="--no-broker" not in options,
        device_days=float(life) / DAY_S,
    )
    run(settings, announce)
