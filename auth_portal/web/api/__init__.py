"""The API below /api/v1/: JSON for programs, by key and never by cookie.

``frame`` is what every route goes through, ``problems`` what every refusal looks like; the other modules are the
routes, one module for each kind of thing. ``openapi.json`` describes all of it.
"""

from auth_portal.web.api import customers, deliveries, verifications
from auth_portal.web.api.frame import api

__all__ = ["api", "customers", "deliveries", "verifications"]
