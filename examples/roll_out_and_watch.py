"""Publish a package and roll it out from Python: the canary first, then the rest, and a reason when a gate says no.

    EDGEWRIGHT_CLOUD=STATE python examples/roll_out_and_watch.py PACKAGE --key publisher.key [--label site=east]

The cloud runs already and devices are enrolled (docs/tutorial/first-fleet.md). A build server's script would look like this:
its exit status is 0 only when the rollout was completed.
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
    asked = parser.parse_args()
    if wrong := [label for label in asked.label if "=" not in label]:
        parser.error(f"a label must be like site=east, not {wrong[0]!r}")
    try:
        with CloudClient.connect() as client:
            version = client.publish(asked.package, load_private_key(asked.key))
            print(f"published {version.model}:{version.version}, {version.size_bytes:,} bytes, for {', '.join(version.variants)}")
            request = RolloutRequest(
                model=version.model,
                version=version.version,
                labels=dict(label.split("=", 1) for label in asked.label),
                waves=("1", "100%"),
                trial_s=5,
            )
            ended = watch(client, client.create_rollout(request))
    except EdgewrightError as error:
        print(f"rolled nothing out: {error}", file=sys.stderr)
        return error.exit_code
    return 0 if ended.state is RolloutState.COMPLETED else 1


def watch(client: CloudClient, started: RolloutRecord) -> RolloutRecord:
    """Print every step of a rollout and return its last state."""
    record = started
    for record in client.watch_rollout(started.rollout):
        states = ", ".join(f"{each.device} {each.state or 'waits'}" for each in record.devices)
        print(f"rollout {record.rollout} is {record.state}, wave {record.wave + 1}: {states}")
    if record.reason:
        print(record.reason)
    return record


if __name__ == "__main__":
    sys.exit(main())
