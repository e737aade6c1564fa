"""Rules of traffic: named deployments, the percentage of requests of each, and the one that gets copies.

A share is assigned without a random draw: over any 100 requests in sequence, each deployment gets its percentage exactly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from edgewright.errors import BadInputError, NotFoundError

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}")
_ADDRESS = re.compile(r"(localhost|[0-9.]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Deployments of one service and their shares, as the file of the router has them."""

    deployments: Mapping[str, str]
    """HOST:PORT of each deployment, by name."""
    traffic: Mapping[str, int]
    """Percent of the requests, by deployment; the sum is 100. A deployment without an entry gets those that name it."""
    mirror: Mapping[str, int] = field(default_factory=dict)
    """Percent of the requests that are copied to one deployment; its answers are discarded."""

    def __post_init__(self) -> None:
        for name, address in self.deployments.items():
            _check_deployment(name, address)
        for name, percent in (*self.traffic.items(), *self.mirror.items()):
            self.address_of(name)
            if not 0 <= percent <= 100:
                raise BadInputError(f"the traffic of {name} must be 0 to 100 percent, not {percent}")
        if (total := sum(self.traffic.values())) != 100:
            shares = " ".join(f"{name}={percent}" for name, percent in self.traffic.items()) or "none"
            raise BadInputError(f"the traffic of all deployments must sum to 100 percent, not {total} ({shares})")
        if len(self.mirror) > 1:
            raise BadInputError(f"requests may be copied to one deployment, not to {len(self.mirror)}: {', '.join(self.mirror)}")
        for name in self.mirror:
            if self.traffic.get(name):
                raise BadInputError(f"{name} must get traffic or copies, not both: set its traffic to 0, or end its mirror")

    def address_of(self, name: str) -> str:
        """Return HOST:PORT of a deployment.

        Raises:
            NotFoundError: no deployment has this name.
        """
        if name not in self.deployments:
            known = ", ".join(sorted(self.deployments)) or "none"
            raise NotFoundError(f"no deployment is called {name[:64]!r}; deployments of this endpoint: {known}")
        return self.deployments[name]

    def without(self, name: str) -> Traffic:
        """Return the traffic after a deployment is removed.

        Raises:
            NotFoundError: no deployment has this name.
            BadInputError: it has traffic or gets copies.
        """
        self.address_of(name)
        if share := self.traffic.get(name, 0):
            raise BadInputError(f"deployment {name} must have no traffic to be removed, not {share} percent: move it first")
        if name in self.mirror:
            raise BadInputError(f"deployment {name} must get no copies to be removed: end its mirror first")
        return Traffic(
            deployments={each: address for each, address in self.deployments.items() if each != name},
            traffic={each: share for each, share in self.traffic.items() if each != name},
            mirror=self.mirror,
        )


class Turns:
    """The deployment of each next request: smooth weighted round robin, as nginx assigns it."""

    def __init__(self, traffic: Traffic) -> None:
        self._shares = [(name, share) for name, share in traffic.traffic.items() if share]
        self._credit = {name: 0 for name, _ in self._shares}
        self._mirror = next(iter(traffic.mirror.items()), ("", 0))
        self._copies = 0

    def deployment(self) -> str:
        """Return the deployment of the next request."""
        if len(self._shares) == 1:
            return self._shares[0][0]
        credit = self._credit
        for name, share in self._shares:
            credit[name] += share
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= 100
        return chosen

    def mirror(self) -> str | None:
        """Return the deployment that gets a copy of the next request; None for most requests."""
        name, percent = self._mirror
        self._copies += percent
        if self._copies < 100:
            return None
        self._copies -= 100
        return name


def parse_shares(text: str) -> dict[str, int]:
    """Return the percentages of a text such as `blue=90 green=10`, the notation of `az ml online-endpoint update --traffic`.

    Raises:
        BadInputError: a part has another form, or a name occurs twice.
    """
    shares: dict[str, int] = {}
    for part in text.split():
        name, _, percent = part.partition("=")
        if not (name and percent.isascii() and percent.isdecimal()) or name in shares:
            raise BadInputError(f'traffic must be NAME=PERCENT once for each deployment, as in "blue=90 green=10", not {text!r}')
        shares[name] = int(percent)
    return shares


def parse_address(text: str) -> str:
    """Return HOST:PORT of an address or an http URL, such as the `scoring_uri` of an endpoint."""
    return urlsplit(text).netloc if text.startswith("http://") else text


def _check_deployment(name: str, address: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInputError(
            f"the name of a deployment must be a letter and up to 31 letters, digits and dashes, not {name[:64]!r}"
        )
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[2]) < 65536:
        raise BadInputError(f"the address of deployment {name} must be HOST:PORT, as in 127.0.0.1:5001, not {address[:64]!r}")
