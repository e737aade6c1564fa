"""The built-in MQTT broker: mosquitto as a supervised child process.

    end_orphan   stop the broker of a cloud that was killed
    prepare      choose the port; write the configuration, access list and revocation list
    start        start the process and wait until it accepts connections
    supervise    restart the process whenever it ends
    stop         stop the process

Every connection needs a certificate of the cloud's authority. Its common name is the user name and the client id, and a device
may only use the topics under its own name (docs/spec/protocol.md P60).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil

from cloud.db.database import Database
from cloud.fleet import devices
from cloud.state.certificates import CLOUD_NAME
from cloud.state.directory import StateDirectory
from cloud.state.ports import choose_port
from edgewright.contracts.connection import topics
from edgewright.contracts.files import write_atomically
from edgewright.contracts.names import TENANT
from edgewright.errors import OperationError

_LOG = logging.getLogger("edgewright.cloud.broker")
START_TIMEOUT_S = 10.0
_STOP_TIMEOUT_S = 5.0
_MAX_RESTART_DELAY_S = 10.0
_CONFIG_FILE = "mosquitto.conf"
_PID_FILE = "mosquitto.pid"


def find_mosquitto() -> Path | None:
    """Return the path of mosquitto, or None; Debian installs it in /usr/sbin, which is not in a user's PATH."""
    program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    return Path(program) if program else None


def end_orphan(state: Path) -> None:
    """Stop the broker of a cloud that was killed, identified by its PID file and its configuration file."""
    folder = state / "broker"
    try:
        process = psutil.Process(int((folder / _PID_FILE).read_text("ascii")))
        if str(folder / _CONFIG_FILE) not in process.cmdline():
            return
        _LOG.warning("stopping the broker of an earlier run pid=%d", process.pid)
        process.terminate()
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
            return
        process.kill()
        process.wait(_STOP_TIMEOUT_S)
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return


class Broker:
    """One mosquitto process with its files below the state directory."""

    def __init__(self, program: Path, state: StateDirectory, database: Database, *, host: str, port: int) -> None:
        self._program = program
        self._state = state
        self._database = database
        self._folder = state.path / "broker"
        self._host = host
        self.port = port
        self._process: asyncio.subprocess.Process | None = None

    def prepare(self) -> None:
        """Choose the port and write all files that mosquitto reads."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self.port = choose_port(self._host, self.port, self._folder / "port", "--broker-port")
        write_atomically(self._folder / "acl", _access_list().encode("ascii"))
        self._write_revocation_list()
        write_atomically(self._config_file, self._configuration().encode("utf-8"))

    async def start(self) -> None:
        """Start the process and wait until it accepts connections.

        Raises:
            OperationError: it ended, or does not accept connections within 10 s.
        """
        self._process = await asyncio.create_subprocess_exec(
            str(self._program), "-c", str(self._config_file), stdin=asyncio.subprocess.DEVNULL, start_new_session=True
        )
        ends_at = time.monotonic() + START_TIMEOUT_S
        while not await self._accepts_connections():
            if self._process.returncode is not None or time.monotonic() > ends_at:
                log = self._folder / "mosquitto.log"
                raise OperationError(
                    f"the MQTT broker must answer on port {self.port}, but it does not: see {log}, or use --no-broker"
                )
            await asyncio.sleep(0.05)
        _LOG.info("started broker pid=%d port=%d", self._process.pid, self.port)

    async def supervise(self) -> None:
        """Restart the process whenever it ends, until cancelled; the delay doubles up to 10 s if it ends within a minute."""
        delay_s = 0.2
        while True:
            assert self._process is not None, "start comes before supervise"
            started = time.monotonic()
            code = await self._process.wait()
            delay_s = 0.2 if time.monotonic() - started > 60 else min(2 * delay_s, _MAX_RESTART_DELAY_S)
            _LOG.warning("broker ended code=%d restart_in_s=%.1f", code, delay_s)
            await asyncio.sleep(delay_s)
            with contextlib.suppress(OperationError):  # ended again: the next iteration waits longer
                await self.start()

    async def stop(self) -> None:
        """Stop the process."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    def reload(self) -> None:
        """Write the revocation list and make mosquitto reload it."""
        self._write_revocation_list()
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGHUP)

    @property
    def _config_file(self) -> Path:
        return self._folder / _CONFIG_FILE

    def _configuration(self) -> str:
        certificate_file, key_file = self._state.server_files
        lines = [
            f"listener {self.port} {self._host}",
            f"cafile {self._state.ca_file}",
            f"certfile {certificate_file}",
            f"keyfile {key_file}",
            f"crlfile {self._folder / 'revoked.pem'}",
            "require_certificate true",
            "use_identity_as_username true",
            "use_username_as_clientid true",
            "allow_anonymous false",
            f"acl_file {self._folder / 'acl'}",
            f"pid_file {self._pid_file}",
            "persistence true",
            f"persistence_location {self._folder}/",
            "autosave_interval 30",
            "max_queued_messages 10000",
            "max_packet_size 8388608",
            "set_tcp_nodelay true",
            f"log_dest file {self._folder / 'mosquitto.log'}",
            "log_type error",
            "log_type warning",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # by default it changes to user mosquitto, which cannot read the state directory
        return "\n".join(lines) + "\n"

    @property
    def _pid_file(self) -> Path:
        return self._folder / _PID_FILE

    def _write_revocation_list(self) -> None:
        now = datetime.now(UTC)
        with self._database.reading() as connection:
            revoked = devices.revoked_certificates(connection, now)
        write_atomically(self._folder / "revoked.pem", self._state.authority.revocation_list(revoked, now))

    async def _accepts_connections(self) -> bool:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)  # noqa: S104  compared, not bound
        try:
            _, writer = await asyncio.open_connection(host, self.port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


def _access_list() -> str:
    prefix = f"{topics.PREFIX}/{TENANT}"
    return (
        f"user {CLOUD_NAME}\ntopic readwrite {topics.PREFIX}/#\n\n"
        f"# %u is the common name of the device's certificate\npattern readwrite {prefix}/%u/#\n"
    )
