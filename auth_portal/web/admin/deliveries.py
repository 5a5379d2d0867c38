"""Deliveries: what left and what did not, with every attempt, and sending again with a reason (D6)."""

from __future__ import annotations

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.i18n import gettext as _
from auth_portal.i18n import ngettext
from auth_portal.services.delivery_lists import FAILED, REFUSALS, DeliveryFilter
from auth_portal.services.outbox import State
from auth_portal.web.admin.filters import Asked, newest_url, older_url
from auth_portal.web.admin.guard import EVERYONE, WRITERS, done, form_text, me, render, route
from auth_portal.web.context import services

PATH = "/admin/deliveries"


@route("/deliveries", allow=EVERYONE)
def deliveries() -> Response:
    """The list, newest first."""
    asked = Asked()
    wanted = DeliveryFilter(
        kind=asked.text("kind"),
        state=asked.text("state"),
        target=asked.text("target"),
        verification_id=asked.key("verification"),
        since=asked.since(),
        until=asked.until(),
    )
    listing = services().delivery_lists.page(wanted, after=asked.key("after"))
    return render(
        "admin/deliveries/list.html", status=asked.status, listing=listing, wanted=wanted, asked=asked,
        states=(FAILED, *State), older=older_url(listing.older), newest=newest_url(),
    )  # fmt: skip


@route("/deliveries/<delivery_id>", allow=EVERYONE)
def delivery(delivery_id: str) -> Response:
    """One delivery with its attempts."""
    return _delivery_page(delivery_id, {})


def _delivery_page(delivery_id: str, faults: dict[str, str], *, status: int = 200) -> Response:
    found = services().delivery_lists.get(delivery_id)
    return render(
        "admin/deliveries/delivery.html", status=status, delivery=found, refusals=REFUSALS, faults=faults,
        reason=form_text("reason"),
    )  # fmt: skip


@route(
    "/deliveries/<delivery_id>/retry", allow=WRITERS, methods=("POST",),
    again=lambda delivery_id: _delivery_page(delivery_id, {}),
)  # fmt: skip
def retry(delivery_id: str) -> BaseResponse:
    """Sends one again."""
    if not form_text("reason"):
        return _delivery_page(delivery_id, {"reason": _no_reason()}, status=422)
    is_confirmed = bool(form_text("confirmed"))
    (retried,) = services().delivery_lists.retry(
        [delivery_id], reason=form_text("reason"), is_confirmed=is_confirmed, admin_id=me().admin_id
    )
    if not retried.is_under_way:
        return _delivery_page(delivery_id, {"confirmed": _(retried.text)}, status=422)
    return done(f"{PATH}/{delivery_id}", _("It is under way again. Reload this page to see what came of it."))


@route("/deliveries/retry", allow=WRITERS, methods=("POST",), again=lambda: _retry_page(request.form.getlist("id"), {}))
def retry_many() -> BaseResponse:
    """Sends several again, and says of each what came of it."""
    chosen, reason = request.form.getlist("id"), form_text("reason")
    faults = {"reason": "" if reason else _no_reason(), "id": "" if chosen else _("Please tick what to send again.")}
    if any(faults.values()):
        return _retry_page(chosen, faults, status=422)
    is_confirmed = bool(form_text("confirmed"))
    retried = services().delivery_lists.retry(chosen, reason=reason, is_confirmed=is_confirmed, admin_id=me().admin_id)
    if all(one.is_under_way for one in retried):
        return done(
            PATH,
            ngettext("%(num)s delivery is under way again.", "%(num)s deliveries are under way again.", len(chosen)),
        )
    return _retry_page([one.id for one in retried if one.refusal == "unconfirmed"], {}, retried=retried)


def _retry_page(chosen: list[str], faults: dict[str, str], *, retried: object = (), status: int = 200) -> Response:
    return render(
        "admin/deliveries/retry.html", status=status, chosen=chosen, faults=faults, retried=retried,
        reason=form_text("reason"),
    )  # fmt: skip


def _no_reason() -> str:
    return _("Please say why, for whoever reads the audit.")
