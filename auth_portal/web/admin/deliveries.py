"""Deliveries: what left and what did not, with every attempt, and retries with a reason (D6)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flask import Response, redirect, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.i18n import ngettext
from auth_portal.services.delivery.retry import REFUSALS, RETRY_MOST, RetryResult
from auth_portal.services.history.delivery_lists import FAILED, STATES, DeliveryFilter
from auth_portal.web.admin.frame import (
    EVERYONE,
    WRITERS,
    FilterForm,
    done,
    form_text,
    me,
    newest_url,
    older_url,
    render,
    route,
)
from auth_portal.web.context import services

PATH = "/admin/deliveries"
REASON_LENGTH = 200


@route("/deliveries", allow=EVERYONE)
def deliveries() -> Response:
    """Show the list, newest first, below what became of those of a day or a week."""
    return _list_page("", "")


def _list_page(typed: str, fault: str) -> Response:
    asked = FilterForm()
    wanted, lists = _wanted(asked), services().delivery_lists
    listing = lists.page(wanted, after=asked.key("after"))
    return render(
        "admin/deliveries/list.html",
        status=422 if fault else asked.status,
        typed=typed,
        fault=fault,
        figures=services().overview.deliveries("week" if asked.range == "week" else "day"),
        customer_ids=services().stories.customer_ids(wanted.customers),
        listing=listing,
        subjects=services().stories.subjects_of([line.id for line in listing.rows]),
        counts=lists.counts(wanted),
        wanted=wanted,
        asked=asked,
        states=(FAILED, *STATES),
        older=older_url(listing.older),
        newest=newest_url(),
    )


def _wanted(asked: FilterForm) -> DeliveryFilter:
    return DeliveryFilter(
        kind=asked.text("kind"),
        state=asked.text("state"),
        target=asked.text("target"),
        verification_id=asked.key("verification"),
        **services().stories.sent_to(asked.keys("customer")),
        since=asked.since(),
        until=asked.until(),
    )


@route("/deliveries/find", allow=EVERYONE, methods=("POST",))
def find() -> BaseResponse:
    """Redirect to the delivery with this id, or to those of the customer or channel that the text names."""
    typed = form_text("wanted")
    if found := services().delivery_lists.named(typed):
        return redirect(f"{PATH}/{found[0].id}", 303)
    if typed in services().journeys.current().channels:
        return redirect(f"{PATH}?target={typed}", 303)
    people = services().stories.people_called(typed) if typed else None
    if people is None or not people.customers:
        return _list_page(typed, _("No customer has this ID, phone or email, and no channel or delivery is called so."))
    return redirect(f"{PATH}?customer={','.join(people.customers)}", 303)


@route("/deliveries/<delivery_id>", allow=EVERYONE)
def delivery(delivery_id: str) -> Response:
    """Show one delivery with its attempts."""
    return _delivery_page(delivery_id, {})


def _delivery_page(delivery_id: str, faults: dict[str, str], *, status: int = 200) -> Response:
    found = services().delivery_lists.get(delivery_id)
    about = services().stories.of_delivery(delivery_id)
    of = found.line.verification_id if found.slug else None
    return render(
        "admin/deliveries/delivery.html",
        status=status,
        delivery=found,
        about=about.subject,
        fix=about.fix,
        sent=about.request,
        payment=services().stories.line(of).payment if of else "",
        refusals=REFUSALS,
        faults=faults,
        reason=form_text("reason"),
    )


@route(
    "/deliveries/<delivery_id>/retry",
    allow=WRITERS,
    methods=("POST",),
    again=lambda delivery_id: _delivery_page(delivery_id, {}),
)
def retry(delivery_id: str) -> BaseResponse:
    """Retry one delivery."""
    if fault := _reason_fault():
        return _delivery_page(delivery_id, {"reason": fault}, status=422)
    is_confirmed = bool(form_text("confirmed"))
    (result,) = services().retries.retry(
        [delivery_id], reason=form_text("reason"), is_confirmed=is_confirmed, admin_id=me().admin_id
    )
    if not result.is_under_way:
        return _delivery_page(delivery_id, {"confirmed": _(result.text)}, status=422)
    return done(f"{PATH}/{delivery_id}", _("It's being sent again. Reload this page to see the result."))


@route("/deliveries/retry", allow=WRITERS)
def review() -> Response:
    """Show what a retry of the chosen deliveries, or of the failed ones of a filter, would do. Changes nothing."""
    chosen = request.args.getlist("id")
    if "all" in request.args:
        failed = replace(_wanted(FilterForm()), state=FAILED)
        chosen = [line.id for line in services().delivery_lists.page(failed, most=RETRY_MOST).rows]
    return _retry_page(chosen, {})


@route("/deliveries/retry", allow=WRITERS, methods=("POST",), again=lambda: _retry_page(request.form.getlist("id"), {}))
def retry_many() -> BaseResponse:
    """Retry several deliveries, and show the result of each."""
    chosen, reason = request.form.getlist("id"), form_text("reason")
    faults = {
        "reason": _reason_fault(),
        "id": "" if chosen else _("Select the deliveries to send again."),
    }
    if any(faults.values()):
        return _retry_page(chosen, faults, status=422)
    is_confirmed = bool(form_text("confirmed"))
    retried = services().retries.retry(chosen, reason=reason, is_confirmed=is_confirmed, admin_id=me().admin_id)
    if all(one.is_under_way for one in retried):
        return done(
            PATH,
            ngettext("%(num)s delivery is being sent again.", "%(num)s deliveries are being sent again.", len(chosen)),
        )
    return _retry_page([one.id for one in retried if one.refusal == "unconfirmed"], {}, retried=retried)


def _retry_page(
    chosen: list[str], faults: dict[str, str], *, retried: Sequence[RetryResult] = (), status: int = 200
) -> Response:
    """Show what was done with some deliveries, if it was, and what a retry of those that are chosen would do."""
    judged = services().retries.preview(chosen)
    left_out = Counter(one.refusal for one in judged if one.refusal)
    shown = [one.id for one in (*retried, *judged)]
    return render(
        "admin/deliveries/retry.html",
        status=status,
        judged=judged,
        to_send=sum(1 for one in judged if one.is_under_way),
        unconfirmed=left_out.pop("unconfirmed", 0),
        left_out=left_out,
        refusals=REFUSALS,
        subjects=services().stories.subjects_of(shown),
        most=RETRY_MOST,
        faults=faults,
        retried=retried,
        reason=form_text("reason"),
    )


def _reason_fault() -> str:
    """Return what is wrong with the reason, or an empty text."""
    reason = form_text("reason")
    too_long = _("At most %(most)s characters.", most=REASON_LENGTH) if len(reason) > REASON_LENGTH else ""
    return too_long if reason else _("Give a reason for the audit trail.")
