"""Where a customer's page belongs to a test drive: then it is served by the drive's own portal, else by the real one.

Decided once per request, before any view: by the signed reference of the link, and afterwards by the visit's cookie,
which carries that reference. A drive's pages open only in a browser in which its admin is signed in; there is no third
way for a drive's reference to be served.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

from flask import Blueprint, Response, g, request

from auth_portal.errors import Gone, Problem
from auth_portal.web.context import DRIVE, SERVICES, admin_token, services, visit_cookie
from auth_portal.web.reference import completed, read_query

WORLD = "drive_world"
AFTER_THE_LANDING = ("/verify", "/done")


def register(pages: Blueprint) -> None:
    """Puts the choice in front of every page of a blueprint."""
    pages.before_request(_enter)
    pages.after_request(_leave)
    pages.teardown_request(_give_up)


def _enter() -> None:
    reference = _reference()
    drive_id = services().drives.drive_of(reference)
    if not drive_id:
        return
    admin = services().admin_sessions.signed_in(admin_token())
    if admin is None:
        raise Gone("drive_over")
    stack = ExitStack()
    world = stack.enter_context(services().drives.entered(drive_id, admin.admin_id))
    setattr(g, WORLD, stack)
    setattr(g, DRIVE, reference)
    driven = replace(
        services(), keyring=world.keyring, journeys=world.journeys, tickets=world.tickets,
        verifications=world.verifications,
    )  # fmt: skip
    setattr(g, SERVICES, driven)


def _reference() -> str:
    """The whole reference that this request is about, exactly as its view will read it; nothing for a bad one."""
    if request.path.startswith(AFTER_THE_LANDING):
        return visit_cookie().rpartition(".")[0]
    try:
        if request.method == "POST":
            return completed(request.form.get("reference", ""), request.form.get("reference_tail", ""))
        return read_query(request.query_string.decode("utf-8", "surrogateescape")).text
    except Problem:
        return ""


def _leave(response: Response) -> Response:
    """Delivers what is due in the drive and keeps it, before the answer goes out."""
    stack: ExitStack | None = g.pop(WORLD, None)
    if stack is not None:
        stack.close()
    return response


def _give_up(error: BaseException | None) -> None:
    """After a fault nothing of the request is kept; the next one finds the drive free."""
    stack: ExitStack | None = g.pop(WORLD, None)
    if stack is not None:
        fault = error or RuntimeError("the request was left")
        try:
            stack.__exit__(type(fault), fault, fault.__traceback__)
        except type(fault):
            return
