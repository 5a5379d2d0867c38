"""Verifications: found by link, person, time, journey or outcome, and each told as a story. Changes nothing.

What was typed to find somebody is posted, so that no reference or contact stands in an address or a log; the list it
leads to names people by their rows and keyed hashes.
"""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, redirect
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.config.journey import OUTCOMES
from auth_portal.services.stories.stories import LIVE, StoryFilter
from auth_portal.web.admin.filters import Asked, newest_url, older_url
from auth_portal.web.admin.guard import EVERYONE, form_text, render, route
from auth_portal.web.context import services
from auth_portal.web.reference import pasted

PATH = "/admin/verifications"


@route("/verifications", allow=EVERYONE)
def verifications() -> Response:
    """The list, newest first."""
    return _list_page("", "")


def _list_page(typed: str, fault: str) -> Response:
    asked = Asked()
    wanted = StoryFilter(
        slug=asked.text("journey"),
        outcome=asked.text("outcome"),
        since=asked.since(),
        until=asked.until(),
        customers=asked.keys("customer"),
        names=asked.keys("named"),
        same_link_as=asked.key("link"),
    )
    listing = services().stories.page(wanted, after=asked.key("after"))
    return render(
        "admin/verifications/list.html", status=422 if fault else asked.status, listing=listing, wanted=wanted,
        asked=asked, typed=typed, fault=fault, outcomes=(LIVE, *OUTCOMES), slugs=_slugs(wanted.slug),
        customer_ids=services().stories.customer_ids(wanted.customers), older=older_url(listing.older),
        newest=newest_url(),
    )  # fmt: skip


def _slugs(chosen: str) -> list[str]:
    """The journeys to choose from; one that was deleted still has its verifications."""
    return sorted({*services().journeys.current().journeys, *([chosen] if chosen else [])})


@route("/verifications/find", allow=EVERYONE, methods=("POST",))
def find() -> BaseResponse:
    """Leads to the verification of a link, or to those of whoever goes by what was typed."""
    typed, stories = form_text("wanted"), services().stories
    found = stories.by_reference(pasted(typed))
    if found:
        return redirect(f"{PATH}/{found[0]}" if len(found) == 1 else f"{PATH}?link={found[0]}", 303)
    named = stories.named(typed)
    if named is None:
        return _list_page(typed, _("Please paste the link or its reference, or type a customer ID, phone or e-mail."))
    query = urlencode({"customer": ",".join(named.customers), "named": ",".join(named.names)}, safe=",")
    return redirect(f"{PATH}?{query}", 303)


@route("/verifications/<verification_id>", allow=EVERYONE)
def story(verification_id: str) -> Response:
    """One verification, in plain sentences, and all that is on record below."""
    return render("admin/verifications/story.html", story=services().stories.get(verification_id))
