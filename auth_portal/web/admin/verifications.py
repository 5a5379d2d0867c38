"""The home page, the search, and verifications, each with its story: found by link, person, time, journey or outcome.

Nothing is changed here. What is searched for is posted, so that no reference or contact stands in an address or a log;
the pages that it leads to name people by their rows and keyed hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlencode

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.services.history.overview import FEW, RANGES
from auth_portal.services.history.stories import StoryFilter
from auth_portal.services.verification.references import pasted
from auth_portal.web.admin.frame import (
    EVERYONE,
    OWNERS,
    FilterForm,
    Place,
    done,
    form_text,
    me,
    newest_url,
    older_url,
    pages_called,
    render,
    route,
)
from auth_portal.web.admin.settings import first_choices
from auth_portal.web.context import services

PATH = "/admin/verifications"
MOST_SEARCHED = 2000  # characters of what is searched for: a link with the longest reference has fewer
SHOWN = 5  # verifications and customers that a search shows; a link leads to all of them
MOST_IN_PANEL = 8
LEAST_PART = 2  # characters of a name that is searched for by its beginning


@route("/", allow=EVERYONE)
def home() -> Response:
    """Show what needs attention now, and how the last day, week or month went, of all journeys or of one."""
    name, slug = request.args.get("range", ""), request.args.get("journey", "")
    overview, snapshot = services().overview, services().journeys.current()
    known, checklist = snapshot.journeys, overview.checklist()
    advice = overview.advice(checklist)
    figures = overview.figures(name if name in RANGES else "day", slug if slug in known else "")
    is_asked = "first" in request.args and not checklist.is_done
    is_new = not (checklist.has_verified or figures.begun)  # once customers come, Home is there for them
    is_due = is_new and advice is not None and advice.kind == "first_steps" and not name
    return render(
        "admin/home.html",
        ranges=tuple(RANGES),
        few=FEW,
        figures=figures,
        slugs=sorted(known),
        ways={slug: now.config for slug, now in known.items()},
        channels=sorted(snapshot.channels),
        checklist=checklist,
        is_first=is_asked or is_due,
        locked=overview.locked(),
        accepted_at=overview.last_accepted_at(),
        advice=advice,
        failed=services().delivery_lists.open_acts().retries,
        warnings=services().health.warnings(),
        alerts=services().alerts.open(services().clock()),
        first=first_choices(),
    )


@route("/advice/later", allow=OWNERS, methods=("POST",))
def put_off() -> BaseResponse:
    """Let a piece of advice rest, for the whole portal."""
    until = services().overview.put_off(form_text("kind"), form_text("subject"), form_text("of"), me().admin_id)
    if until is None:
        return done("/admin/", _("There is no longer a reason for this advice."))
    day = services().journeys.current().portal.wall.day(until)
    return done("/admin/", _("Put off until %(day)s, for all admins.", day=day))


@dataclass(frozen=True)
class SearchResult:
    """What a text may mean: ``exact`` are the pages of what it names exactly."""

    typed: str = ""
    customers: Sequence[Any] = ()
    lines: Sequence[Any] = ()  # verifications
    who: Mapping[str, Any] = field(default_factory=dict)  # the person of each of them
    all_lines: str = ""  # the address of all of them, if they are those of people
    deliveries: Sequence[Any] = ()
    places: Sequence[Place] = ()  # journeys, channels and pages
    exact: Sequence[str] = ()
    phone: Any = None  # how it is read as a number

    @property
    def is_empty(self) -> bool:
        """Report whether nothing was found."""
        return not (self.customers or self.lines or self.deliveries or self.places)

    @property
    def count(self) -> int:
        """Return how many things were found."""
        return len(self.customers) + len(self.lines) + len(self.deliveries) + len(self.places)

    def first(self, most: int) -> SearchResult:
        """Return only the first things; the page of the search has them all."""
        left, parts = most, {}
        for name in ("customers", "lines", "deliveries", "places"):
            parts[name] = getattr(self, name)[:left]
            left -= len(parts[name])
        return replace(self, **parts, all_lines="")

    @classmethod
    def of(cls, typed: str) -> SearchResult:
        """Look everywhere. Of what is encrypted, only the whole text finds something."""
        if not typed:
            return cls()
        stories = services().stories
        customers = services().customers.page("", typed).customers
        lines, deliveries = stories.named(typed, pasted(typed)), services().delivery_lists.named(typed)
        places, exact = ([], []) if lines else places_called(typed)  # its link names the journey, too
        exact += [f"/admin/customers/{customer.row}" for customer in customers]
        exact += [f"/admin/deliveries/{line.id}" for line in deliveries]
        if lines:
            exact.append(f"{PATH}/{lines[0].id}" if len(lines) == 1 else f"{PATH}?link={lines[0].id}")
        people, all_lines = None if lines else stories.people_called(typed), ""
        if people is not None:
            rows = tuple(dict.fromkeys((*people.customers, *(customer.row for customer in customers))))[:SHOWN]
            lines = stories.page(StoryFilter(customers=rows, names=people.names), most=SHOWN).rows
            all_lines = _list_url(rows, people.names)
        phone, who = people.phone if people else None, stories.people_of(lines)
        return cls(typed, customers, lines, who, all_lines, deliveries, places, exact, phone)


def places_called(typed: str) -> tuple[list[Place], list[str]]:
    """Return journeys, channels and pages with this in their name, and the addresses of those that are called just so.

    A journey's link, with or without a reference, names the journey.
    """
    wanted = typed.casefold()
    link = wanted.partition("?")[0].rstrip("/")
    if len(wanted) < LEAST_PART:
        return [], []
    found = [
        (Place(f"journeys/{slug}", one.name, "route", what=f"/j/{slug}"), {slug, one.name.casefold()})
        for slug, one in ((listed.config.slug, listed.config) for listed in services().journey_history.journeys())
        if wanted in slug or wanted in one.name.casefold() or link.endswith(f"/j/{slug}")
    ]
    found += [
        (Place(f"channels/{one.name}", one.name, "message-square", what=_("channel")), {one.name})
        for one in services().channel_editor.channels()
        if wanted in one.name
    ]
    found += [(page, {page.name.casefold()}) for page in pages_called(typed)]
    exact = [f"/admin/{place.path}" for place, names in found if names & {wanted, link.rpartition("/j/")[2]}]
    return [place for place, _names in found], exact


@route("/search", allow=EVERYONE)
def search_form() -> Response:
    """Show the search of everything, for screens without room for its box."""
    return render("admin/search.html", found=SearchResult())


@route("/search", allow=EVERYONE, methods=("POST",))
def search() -> BaseResponse:
    """Open the one thing that a text names exactly, or show all that it may mean.

    Script asks for the ``panel`` below the box while an admin types.
    """
    found = SearchResult.of(form_text("q")[:MOST_SEARCHED])
    if form_text("panel"):
        return render("admin/search_panel.html", found=found.first(MOST_IN_PANEL))
    if len(found.exact) == 1:
        return redirect(found.exact[0], 303)
    return render("admin/search.html", found=found)


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
        method=asked.key("method"),
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
        methods=list(services().methods),
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
    return redirect(_list_url(people.customers, people.names), 303)


def _list_url(customers: Sequence[str], names: Sequence[str]) -> str:
    """Return the address of the verifications of these rows of customers, or with these hashes of what was typed."""
    return f"{PATH}?{urlencode({'customer': ','.join(customers), 'named': ','.join(names)}, safe=',')}"


@route("/verifications/<verification_id>", allow=EVERYONE)
def story(verification_id: str) -> Response:
    """Show one verification in plain sentences, with all that is on record."""
    stories = services().stories
    found = stories.get(verification_id)
    return render("admin/verifications/story.html", story=found, named=found.who, others=stories.others_of(found))
