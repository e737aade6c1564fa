"""Times of a cron expression; a change of the clock is treated as Debian's cron does (cronsim)."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from edgewright.errors import BadInputError


def next_time(cron: str, time_zone: str, after: datetime) -> datetime:
    """Return the first time after a moment that a cron expression names, in UTC.

    Args:
        cron: five fields, as in `0 6 * * 1-5` (crontab(5)).
        time_zone: name of the IANA data base.
        after: the moment.

    Raises:
        BadInputError: the expression is invalid or names no day of any year, or the time zone is invalid.
    """
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadInputError(f"a time zone must be one of the IANA data base, as Europe/Paris, not {time_zone[:64]!r}") from error
    try:
        return next(CronSim(cron, after.astimezone(zone))).astimezone(UTC)
    except CronSimError as error:
        raise BadInputError(
            f"a cron expression must have five valid fields, as in '0 6 * * 1-5', not {cron[:64]!r}: {error}"
        ) from error
