"""The configuration page, below ``/admin/``. ``guard`` says who may use a route; each section is one module."""

from auth_portal.web.admin import (
    access,
    account,
    admins,
    api_keys,
    audit,
    channels,
    credentials,
    customers,
    deliveries,
    drive,
    faults,
    home,
    imports,
    journeys,
    settings,
    setup,
    verifications,
)
from auth_portal.web.admin.guard import admin

__all__ = [
    "access",
    "account",
    "admin",
    "admins",
    "api_keys",
    "audit",
    "channels",
    "credentials",
    "customers",
    "deliveries",
    "drive",
    "faults",
    "home",
    "imports",
    "journeys",
    "settings",
    "setup",
    "verifications",
]
