"""Every route of the API: its modules, loaded once, so that their blueprint is whole."""

from auth_portal.web.api import customers, deliveries, document, tickets, verifications
from auth_portal.web.api.frame import api

__all__ = ["api", "customers", "deliveries", "document", "tickets", "verifications"]
