"""The identity of a cloud: its authority, its signing key and its operator token, of which the database stores the digests.

A file that was replaced by that of another cloud is valid in itself. It is found because it differs from the database.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import insert, select, update

from cloud.db.database import Database
from cloud.db.schema import identity
from cloud.state.directory import StateDirectory
from edgewright.contracts import signing
from edgewright.errors import BadInputError

_TOKEN = "operator.token"  # noqa: S105  a file name
_FILES = {"ca.pem": "ca.pem and ca.key", "cloud.key": "cloud.key", _TOKEN: _TOKEN}


def check_identity(database: Database, state: StateDirectory, *, replaces_token: bool = False) -> None:
    """Compare the state directory with the database; store the identity in a database that has none yet.

    Raises:
        BadInputError: a file, or the database, is of another cloud.
    """
    digests = _digests(state)
    with database.transaction() as connection:
        stored = {row.name: row.sha256 for row in connection.execute(select(identity))}
        if not stored:
            rows = [{"name": name, "sha256": digest} for name, digest in digests.items()]
            connection.execute(insert(identity), rows)
            return
        if replaces_token:
            stored[_TOKEN] = digests[_TOKEN]
            connection.execute(update(identity).where(identity.c.name == _TOKEN).values(sha256=digests[_TOKEN]))
        different = [name for name in digests if stored.get(name) != digests[name]]
        if different:
            raise BadInputError(_mismatch(state, database, different))


def _digests(state: StateDirectory) -> dict[str, str]:
    return {
        "ca.pem": state.authority.sha256(),
        "cloud.key": signing.key_id(state.signing_key.public_key()),
        _TOKEN: hashlib.sha256(state.operator_token.encode("ascii")).hexdigest(),
    }


def _mismatch(state: StateDirectory, database: Database, different: list[str]) -> str:
    if "ca.pem" in different and "cloud.key" in different:
        return (
            f"the database {database.engine.url!r} must be that of the cloud in {state.path}, but it belongs to another cloud: "
            "restore both from one backup"
        )
    name = different[0]
    hint = ", or replace the token with --new-token" if name == _TOKEN else ""
    return (
        f"{state.path / name} must be the file that this cloud created, but it is another one: "
        f"restore {_FILES[name]} from a backup of the state directory{hint}"
    )
