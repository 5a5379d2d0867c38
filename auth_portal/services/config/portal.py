"""What a configuration may say of the portal as a whole: its name and contact, limits, retention and alerts."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from auth_portal.clock import DEFAULT_ZONE, WallClock, zone_names


class Frozen(BaseModel):
    """Config values: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PortalLimits(Frozen):
    """Limits per client address (an IPv6 /64 is one); wide, because carriers put thousands behind one (R12a)."""

    begins_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 300
    password_checks_per_minute: Annotated[int, Field(ge=1, le=100_000)] = 60


class Retention(Frozen):
    """For how long each kind is kept (E3); the defaults are those of SECURITY.md.

    Codes stay as long as the longest chat could ask for them; audit for a quarter at least, so that an abuse which is
    noticed late can still be looked into.
    """

    codes_hours: Annotated[int, Field(ge=24, le=168)] = 24
    verifications_days: Annotated[int, Field(ge=2, le=365)] = 30
    audit_days: Annotated[int, Field(ge=90, le=3660)] = 396  # 13 months


class AlertSettings(Frozen):
    """Who hears when callbacks or a channel fail: the owners by e-mail, and a program by webhook."""

    email: bool = True
    webhook: Annotated[str, Field(max_length=255)] = ""

    @field_validator("webhook")
    @classmethod
    def _is_url(cls, value: str) -> str:
        if value and (urlsplit(value).scheme not in ("https", "http") or not urlsplit(value).hostname):
            raise ValueError("must be a URL such as https://alerts.example/auth-portal")
        return value


class PortalSettings(Frozen):
    """What the pages and messages say of the business, its limits, and what is kept and told."""

    name: Annotated[str, Field(min_length=1, max_length=60)] = "Auth Portal"
    default_region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] = "ZA"
    time_zone: Annotated[str, Field(max_length=64)] = DEFAULT_ZONE  # of the admins
    support_contact: Annotated[str, Field(max_length=200)] = ""
    notices_by: Annotated[str, Field(max_length=64)] = ""  # the channel of mail to owners; else the first that can
    limits: PortalLimits = PortalLimits()
    retention: Retention = Retention()
    alerts: AlertSettings = AlertSettings()

    @property
    def wall(self) -> WallClock:
        """The clock by which admins read times."""
        return WallClock(self.time_zone)

    @field_validator("time_zone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        if value != DEFAULT_ZONE and value not in zone_names():
            raise ValueError("is no time zone; it must be one of the IANA names, such as Africa/Johannesburg or UTC")
        return value

    @field_validator("support_contact")
    @classmethod
    def _contact(cls, value: str) -> str:
        if value and urlsplit(value).scheme not in ("https", "mailto", "tel"):
            raise ValueError("must begin with https://, mailto: or tel:")
        return value
