"""Refusals in the words of IoT Hub's service API: a status and an error code, which client libraries read."""

from __future__ import annotations

from edgewright.errors import EdgewrightError


class RefusalError(EdgewrightError):
    """A request that the hub refuses; `code` is that of IoT Hub, such as `DeviceNotFound`."""

    exit_code = 2

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def not_found(identity: str) -> RefusalError:
    """Return the refusal for an unknown device or module."""
    kind = "Module" if "/" in identity else "Device"
    return RefusalError(404, f"{kind}NotFound", f"the hub has no {kind.lower()} {identity}")


def bad_argument(message: str) -> RefusalError:
    """Return the refusal of a request with an invalid value."""
    return RefusalError(400, "ArgumentInvalid", message)


def precondition(identity: str) -> RefusalError:
    """Return the refusal of a change whose etag is not the current one."""
    return RefusalError(412, "PreconditionFailed", f"{identity} has changed: read it again and send its current etag in If-Match")
