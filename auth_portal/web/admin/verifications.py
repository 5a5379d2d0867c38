"""The home page, and verifications, each with its story: searched by link, person, time, journey or outcome.

Nothing is changed here. The search text is posted, so that no reference or contact stands in an address or a log; the
list that it leads to names people by their rows and keyed hashes.
"""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.history.overview import FEW, RANGES
from auth_portal.services.history.stories import StoryFilter
from auth_portal.services.verification.references import pasted
from auth_portal.web.admin.frame import EVERYONE, FilterForm, form_text, newest_url, older_url, render, route
from auth_portal.web.context import services

PATH = "/admin/verifications"


@route("/", allow=EVERYONE)
def home() -> Response:
    """Show what needs attention now, and how the last day, week or month went, of all journeys or of one."""
    name, slug = request.args.get("range", "day"), request.args.get("journey", "")
    overview, known = services().overview, services().journeys.current().journeys
    return render(
        "admin/home.html",
        ranges=tuple(RANGES),
        few=FEW,
        figures=overview.figures(name if name in RANGES else "day", slug if slug in known else ""),
        slugs=sorted(known),
        checklist=overview.checklist(),
        locked=overview.locked(),
        accepted_at=overview.last_accepted_at(),
        advice=overview.advice(),
        failed=services().delivery_lists.open_acts().retries,
        warnings=services().health.warnings(),
        alerts=services().alerts.open(services().clock()),
    )


@route("/verifications", allow=EVERYONE)
def verifications() -> Response:
    """Show the list, newest first."""
    return _list_page("", "")


def _list_page(typed: str, fault: str) -> Response:
    asked = FilterForm()
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
    chosen = {wanted.slug} - {""}  # a journey that was deleted still has its verifications
    return render(
        "admin/verifications/list.html",
        status=422 if fault else asked.status,
        listing=listing,
        people=services().stories.people_of(listing.rows),
        counts=services().stories.counts(wanted),
        wanted=wanted,
        asked=asked,
        typed=typed,
        fault=fault,
        slugs=sorted({*services().journeys.current().journeys, *chosen}),
        customer_ids=services().stories.customer_ids(wanted.customers),
        older=older_url(listing.older),
        newest=newest_url(),
    )


@route("/verifications/find", allow=EVERYONE, methods=("POST",))
def find() -> BaseResponse:
    """Redirect to the verification of a link, or to those of the customers that the search text may mean."""
    typed, stories = form_text("wanted"), services().stories
    found = stories.by_reference(pasted(typed))
    if found:
        return redirect(f"{PATH}/{found[0]}" if len(found) == 1 else f"{PATH}?link={found[0]}", 303)
    people = stories.people_called(typed)
    if people is None:
        return _list_page(typed, _("Paste the link or its reference, or type a customer ID, phone or email address."))
    query = urlencode({"customer": ",".join(people.customers), "named": ",".join(people.names)}, safe=",")
    return redirect(f"{PATH}?{query}", 303)


@route("/verifications/<verification_id>", allow=EVERYONE)
def story(verification_id: str) -> Response:
    """Show one verification in plain sentences, with all that is on record."""
    return render("admin/verifications/story.html", story=services().stories.get(verification_id))
