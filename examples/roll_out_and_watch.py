"""Publish a package and roll it out from Python: a canary first, then the rest, with the reason if a gate fails.

    EDGEWRIGHT_CLOUD=STATE python examples/roll_out_and_watch.py PACKAGE --key publisher.key [--label site=east]

The cloud must run and devices must be enrolled (docs/tutorial/first-fleet.md). The script suits a build server: its exit status
is 0 only if the rollout was completed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from edgewright.contracts.messages import RolloutRecord, RolloutRequest, RolloutState
from edgewright.contracts.signing import load_private_key
from edgewright.errors import EdgewrightError
from edgewright.sdk import CloudClient


def main() -> int:
    """Publish, roll out, watch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("--key", type=Path, required=True, help="the publisher's private key")
    parser.add_argument("--label", action="append", default=[], metavar="NAME=VALUE", help="only devices with this label")
    arguments = parser.parse_args()
    if invalid := [label for label in arguments.label if "=" not in label]:
        parser.error(f"a label must have the form site=east, not {invalid[0]!r}")
    try:
        with CloudClient.connect() as client:
            version = client.publish(arguments.package, load_private_key(arguments.key))
            print(f"published {version.model}:{version.version}, {version.size_bytes:,} bytes, for {', '.join(version.variants)}")
            request = RolloutRequest(
                model=version.model,
                version=version.version,
                labels=dict(label.split("=", 1) for label in arguments.label),
                waves=("1", "100%"),
                trial_s=5,
            )
            result = watch(client, client.create_rollout(request))
    except EdgewrightError as error:
        print(f"the rollout failed: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if result.state is RolloutState.COMPLETED else 1


def watch(client: CloudClient, started: RolloutRecord) -> RolloutRecord:
    """Print every step of a rollout and return its last state."""
    record = started
    for record in client.watch_rollout(started.rollout):
        states = ", ".join(f"{device.device} {device.state or 'waits'}" for device in record.devices)
        print(f"rollout {record.rollout} is {record.state}, wave {record.wave + 1}: {states}")
    if record.reason:
        print(record.reason)
    return record


if __name__ == "__main__":
    sys.exit(main())
