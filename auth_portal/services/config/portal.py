"""The settings of the portal as a whole: its name and contact, limits, retention and alerts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from auth_portal.clock import DEFAULT_ZONE, WallClock, zone_names
from auth_portal.i18n import FALLBACK, complete_languages, format_date, format_time
from auth_portal.services.config.appearance import DEFAULT_RADIUS, Colour, LogoDigest, Radius

LOOK = ("colour", "logo", "logo_dark", "radius", "hide_name")  # of the portal, and again of a journey


class Frozen(BaseModel):
    """Config values: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class ShownTime:
    """A time of day in words, with its date unless that is today."""

    time: str
    date: str = ""


class PortalLimits(Frozen):
    """Limits per client address (an IPv6 /64 is one); wide, because carriers put thousands behind one (R12a)."""

    begins_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 300
    password_checks_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60


class Retention(Frozen):
    """How long each kind of record is stored (E3).

    Codes stay as long as the longest chat could ask for them; audit for a quarter at least, so that an abuse which is
    noticed late can still be looked into.
    """

    codes_hours: Annotated[int, Field(ge=24, le=168)] = 24
    verifications_days: Annotated[int, Field(ge=2, le=365)] = 30
    audit_days: Annotated[int, Field(ge=90, le=3660)] = 396  # 13 months

    @property
    def records_stored(self) -> timedelta:
        """Return for how long verifications and deliveries are stored."""
        return timedelta(days=self.verifications_days)

    @property
    def audit_stored(self) -> timedelta:
        """Return for how long audit events are stored."""
        return timedelta(days=self.audit_days)


def hidden_address(url: str) -> str:
    """Return the address of a webhook for those who may not see all of it: its path and query often hold a secret."""
    parts = urlsplit(url)
    host, rest = parts.netloc.rpartition("@")[2], url.partition("://")[2].removeprefix(parts.netloc)
    return f"{parts.scheme}://{host}{'/…' if len(rest) > 1 else rest}" if host else ""


class AlertSettings(Frozen):
    """Who is notified when callbacks or a channel fail: the owners by email, and a program by webhook."""

    email: bool = True
    webhook: Annotated[str, Field(max_length=255)] = ""

    @property
    def hidden_webhook(self) -> str:
        """Return the address for those who may not see all of it."""
        return hidden_address(self.webhook)

    @field_validator("webhook")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("https", "http") or not urlsplit(value).hostname):
            raise ValueError("must be a URL such as https://alerts.example/auth-portal")
        return value


class PortalSettings(Frozen):
    """The name, contact and look of the business, its limits, what is stored, and who is notified."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = "Auth Portal"
    latin_name: Annotated[str, Field(max_length=60, pattern=r"^[A-Za-z0-9 &'().,+/!:-]*$")] = ""  # in SMS
    default_region: Annotated[str, Field(pattern=r"^([A-Z]{2})?$")] = ""  # none until an owner has chosen one
    time_zone: Annotated[str, Field(max_length=64)] = DEFAULT_ZONE  # of the admins
    language: Annotated[str, Field(max_length=16)] = FALLBACK  # where a browser asks for none offered
    languages: tuple[str, ...] = ()  # that are offered to customers; none: all that miss no text
    support_contact: Annotated[str, Field(max_length=200)] = ""
    notices_by: Annotated[str, Field(max_length=64)] = ""  # the channel of mail to owners; else the first that can
    colour: Colour = ""
    logo: LogoDigest = ""
    logo_dark: LogoDigest = ""  # for dark pages
    radius: Radius = DEFAULT_RADIUS  # of corners, in CSS pixels
    hide_name: bool = False  # next to the logo, which says it already
    case_sensitive_ids: bool = False  # of customers; fixed once there is one, because they are found by it
    limits: PortalLimits = PortalLimits()
    retention: Retention = Retention()
    alerts: AlertSettings = AlertSettings()

    def stored(self) -> dict[str, Any]:
        """Return the settings as they are stored: without those that no one has chosen yet.

        A process of the previous version would refuse an empty default country, and knows no languages and no looks.
        Nor does it know case-sensitive IDs: it stops serving where they are on.
        """
        left_out = ("default_region", "language", "languages", "latin_name", "case_sensitive_ids", *LOOK)
        unset = {name for name in left_out if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=unset)

    @cached_property
    def offered(self) -> tuple[str, ...]:
        """Return the languages that customers may read: those of the settings, as far as they miss no text."""
        complete = complete_languages()
        if not self.languages:
            return complete
        return tuple(code for code in complete if code in self.languages or code == self.language)

    def shown_time(self, moment: datetime, now: datetime) -> ShownTime:
        """Return a time as a customer reads it, in the language of this page."""
        local = self.wall.local(moment)
        date = "" if local.date() == self.wall.local(now).date() else format_date(local.date(), self.default_region)
        return ShownTime(format_time(local, self.default_region), date)

    @property
    def wall(self) -> WallClock:
        """Return the clock of the admins' time zone."""
        return WallClock(self.time_zone)

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        if value != DEFAULT_ZONE and value not in zone_names():
            raise ValueError("is not a time zone; use an IANA name such as Africa/Johannesburg or UTC")
        return value

    @field_validator("language")
    @classmethod
    def _is_language(cls, value: str) -> str:
        if value not in complete_languages():
            raise ValueError(f"must be one of {', '.join(complete_languages())}")
        return value

    @field_validator("languages")
    @classmethod
    def _are_languages(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [code for code in value if code not in complete_languages()]:
            raise ValueError(f"{unknown[0]!r} must be one of {', '.join(complete_languages())}")
        return tuple(dict.fromkeys(value))

    @field_validator("support_contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if value and urlsplit(value).scheme not in ("https", "mailto", "tel"):
            raise ValueError("must begin with https://, mailto: or tel:")
        return value
