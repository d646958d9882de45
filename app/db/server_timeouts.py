"""Time limits that PostgreSQL enforces on the connections of one role.

They end what no client waits for any more: a statement behind a lock whose client has gone, or the transaction of a
process that is frozen or lost between a statement and its COMMIT. `app.db.client_timeout` covers a server that hangs.
"""

import sys
from dataclasses import dataclass

STATEMENT_SECONDS = 25.0
"""Shorter than the client's limit, so that a live server ends the statement and the connection stays usable."""
LOCK_SECONDS = 10.0
IDLE_TRANSACTION_SECONDS = 60.0
_MIN_WORKER_IDLE_SECONDS = 10.0
_CLIENT_CHECK_SECONDS = 1.0
"""How often the server checks, during a statement, that its client is still connected."""


@dataclass(frozen=True, slots=True)
class ServerTimeouts:
    """Limits in seconds; None for no limit, as migrations need it."""

    statement: float | None = None
    lock: float | None = None
    idle_in_transaction: float | None = None

    def options(self) -> str:
        """Return libpq's `options` that set the limits for a connection."""
        limits = {
            "statement_timeout": self.statement,
            "lock_timeout": self.lock,
            "idle_in_transaction_session_timeout": self.idle_in_transaction,
            # A server on Windows rejects this setting; the embedded one runs where its client does.
            "client_connection_check_interval": None if sys.platform == "win32" else _CLIENT_CHECK_SECONDS,
        }
        return " ".join(f"-c {name}={round(1000 * seconds)}" for name, seconds in limits.items() if seconds is not None)


NO_TIMEOUTS = ServerTimeouts()
REQUEST_TIMEOUTS = ServerTimeouts(STATEMENT_SECONDS, LOCK_SECONDS, IDLE_TRANSACTION_SECONDS)


def worker_timeouts(lease_seconds: float) -> ServerTimeouts:
    """Return the limits of a worker: while it is frozen or lost, its locks do not outlast a lease."""
    return ServerTimeouts(STATEMENT_SECONDS, LOCK_SECONDS, max(_MIN_WORKER_IDLE_SECONDS, lease_seconds))
