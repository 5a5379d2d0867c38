"""The configuration page, below ``/admin/``. ``frame`` says who may use a route; each section is one module."""

from auth_portal.web.admin import (
    access,
    admins,
    api_keys,
    audit,
    channels,
    customers,
    deliveries,
    drive,
    imports,
    journeys,
    settings,
    setup,
    verifications,
)
from auth_portal.web.admin.frame import admin

__all__ = [
    "access",
    "admin",
    "admins",
    "api_keys",
    "audit",
    "channels",
    "customers",
    "deliveries",
    "drive",
    "imports",
    "journeys",
    "settings",
    "setup",
    "verifications",
]
