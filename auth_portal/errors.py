"""What can go wrong, as values that every layer understands.

A Problem is a broken precondition: it rolls back whatever was under way. Expected answers (a wrong
code, a late click) are never raised; they are returned, so that what they counted is kept.
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


class Gone(Problem):
    """It was there, and its time is over."""

    status = 410


class Conflict(Problem):
    """It cannot be done as things stand; look again."""

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
    """The same is being done at this moment by another request."""

    status = 409


class Misconfigured(Exception):
    """The operator has to mend something before this can work. One line per fault, each says what to do."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults
