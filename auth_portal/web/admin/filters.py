"""What the forms above lists have in common: fields in the address, times, and the link to older rows."""

from __future__ import annotations

from datetime import datetime
from urllib.parse import urlencode

from flask import request

from auth_portal.i18n import gettext as _
from auth_portal.web.context import services

KEY_LENGTH = 64  # characters of a key in an address; ids have 32


class Asked:
    """The filter of one request, from its address or form; ``faults`` are by field."""

    def __init__(self) -> None:
        self.faults: dict[str, str] = {}

    def text(self, name: str) -> str:
        """A field as it was typed, without blanks around it."""
        return request.values.get(name, "").strip()

    def key(self, name: str) -> str:
        """An id or keyed hash."""
        return self.text(name)[:KEY_LENGTH]

    def keys(self, name: str) -> tuple[str, ...]:
        """Several of them, with commas between."""
        return tuple(key[:KEY_LENGTH] for key in self.text(name).split(",") if key)

    def since(self) -> datetime | None:
        """The beginning of the range of time that was asked for."""
        return self._moment("since", is_end=False)

    def until(self) -> datetime | None:
        """The end of it, which is not within it any more."""
        return self._moment("until", is_end=True)

    def _moment(self, name: str, *, is_end: bool) -> datetime | None:
        """A time as a browser's own field writes it or as a date alone, in the time zone of the settings."""
        typed = self.text(name)
        if not typed:
            return None
        try:
            return services().journeys.current().portal.wall.read(typed, is_end=is_end)
        except ValueError:
            self.faults[name] = _("Please write a date and time such as 2026-11-22T19:05.")
            return None

    @property
    def status(self) -> int:
        """The answer's status."""
        return 422 if self.faults else 200


def older_url(older: str) -> str:
    """This page's own address, going on from a key; nothing at the end of the list."""
    kept = {name: value for name, value in request.args.items() if value and name != "after"}
    return f"{request.path}?{urlencode({**kept, 'after': older})}" if older else ""


def newest_url() -> str:
    """This page's own address from the beginning; nothing where that is this page."""
    kept = {name: value for name, value in request.args.items() if value and name != "after"}
    return f"{request.path}?{urlencode(kept)}" if request.args.get("after") else ""
