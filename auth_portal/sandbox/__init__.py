"""A stand-in for Chat Flow and the phone networks, served under ``/sandbox/`` while PORTAL_SANDBOX is on.

It is an outside system that happens to live in the same process: the portal reaches it by HTTP like the real
Flow, and it knows of the portal only the journeys and people that ``bootstrap`` hands over. So it keeps its own
state in its own SQLite file, ``<instance>/sandbox.db`` (WAL, shared by all workers, the oldest pruned), and a
portal on PostgreSQL has it too. Nothing in it is ever read by the product.

It refuses to be lenient: a callback that the real Flow might not match gets a 400 here, with the reason on show.
"""

from __future__ import annotations

from auth_portal.sandbox.contract import DemoPerson, Fault, JourneyCard, ReferenceStyle
from auth_portal.sandbox.wiring import CSRF_EXEMPT, MACHINE_ENDPOINTS, blueprint

__all__ = ["CSRF_EXEMPT", "MACHINE_ENDPOINTS", "DemoPerson", "Fault", "JourneyCard", "ReferenceStyle", "blueprint"]
