"""Loop that hands the packages of `edgewright agent import` to their workloads, and removes those whose deployment has ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from edge_agent.deployment.journal import Journal
from edge_agent.storage.imports import Imports
from edgewright.contracts.messages import DesiredState

_log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0


class ImportInbox:
    """Receiver of imported packages."""

    def __init__(self, imports: Imports, journal: Journal, take: Callable[[DesiredState], None]) -> None:
        self._imports = imports
        self._journal = journal
        self._take = take
        self._taken: set[int] = set()

    async def watch_forever(self) -> None:
        """Look for new imports, also for those that came while the agent was stopped."""
        self._imports.prepare()
        while True:
            for number in self._imports.numbers():
                self._look_at(number)
            await asyncio.sleep(LOOK_EVERY_S)

    def _look_at(self, number: int) -> None:
        state = self._journal.state_of(number)
        if state is not None:
            if state.is_final:
                self._imports.remove(number)
            return
        desired = self._imports.desired(number)
        if desired is None:
            _log.warning("removed damaged import desired_number=%d", number)
            self._imports.remove(number)
        elif number not in self._taken:
            _log.info("took import desired_number=%d workload=%s model=%s", number, desired.workload, desired.model)
            self._taken.add(number)
            self._take(desired)
