"""What can go wrong, as exceptions that every layer understands.

A Problem is a broken precondition: it rolls back the transaction under way. Expected answers (a wrong code, a late
click) are never raised but returned, so that what they counted is committed.
"""

from __future__ import annotations


class Problem(Exception):
    """A refusal with a stable code, an HTTP status and parameters that are safe to show and log."""

    status = 400

    def __init__(self, code: str, *, status: int | None = None, **params: object) -> None:
        super().__init__(code)
        self.code = code
        self.params = params
        if status is not None:
            self.status = status


class NotFound(Problem):
    """What was asked for does not exist."""

    status = 404


class WrongClock(Problem):
    """The clock of this machine differs from the database's, so nothing may be judged by it now (D8)."""

    def __init__(self) -> None:
        super().__init__("unavailable", status=503)


class Gone(Problem):
    """It existed, and has expired or was used."""

    status = 410


class Conflict(Problem):
    """The current state does not allow it; look again."""

    status = 409


class TooMany(Problem):
    """A limit was reached; ``retry_after_seconds`` says when trying again makes sense."""

    status = 429

    def __init__(self, code: str, *, retry_after_seconds: int, **params: object) -> None:
        super().__init__(code)
        self.params = params
        self.retry_after_seconds = max(1, retry_after_seconds)


class Busy(TooMany):
    """The server itself is full at this moment; nothing was counted."""

    status = 503


class UnderWay(TooMany):
    """Another request is doing the same thing at this moment."""

    status = 409


class Misconfigured(Exception):
    """The operator has to fix something before this can work. ``faults`` has one line each, which says what to do."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DatabaseAway(Misconfigured):
    """The database cannot be reached now. A command ends with it; what serves waits until it is back (D9)."""
