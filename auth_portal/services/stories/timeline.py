"""Every record of one verification as it stands: the raw timeline under its story."""

from __future__ import annotations

from collections.abc import Iterator

from auth_portal.i18n import plain as _
from auth_portal.services.method_names import method_name
from auth_portal.services.stories.audit_words import sentence
from auth_portal.services.stories.moments import Moment, span
from auth_portal.services.stories.record import CodeFacts, DeliveryFacts, Record, VisitFacts


def timeline(record: Record) -> list[Moment]:
    """Every record as it stands, in order."""
    rows = [Moment(event.at, sentence(event.kind, event.facts), "audit") for event in record.events]
    rows += [_visit_row(visit) for visit in record.visits]
    rows += [moment for code in record.codes for moment in _code_rows(record, code)]
    rows += [moment for delivery in record.deliveries for moment in _delivery_rows(delivery)]
    return sorted(rows, key=lambda moment: moment.at)


def _visit_row(visit: VisitFacts) -> Moment:
    return Moment(
        visit.at, _("A browser sent the first form; named last: %(typed)s", typed=visit.typed or "–"), "visit"
    )


def _code_rows(record: Record, code: CodeFacts) -> Iterator[Moment]:
    method = method_name(code.method)
    until = record.time(code.expires_at)
    yield Moment(code.at, _("%(method)s issued, good until %(until)s", method=method, until=until), "code")
    if code.used_at is not None:
        yield Moment(code.used_at, _("%(method)s used", method=method), "code")
    if code.replaced_at is not None:
        yield Moment(code.replaced_at, _("%(method)s replaced by a new one", method=method), "code")


def _delivery_rows(delivery: DeliveryFacts) -> Iterator[Moment]:
    line = delivery.line
    yield Moment(line.created_at, _("%(kind)s for %(target)s queued", kind=line.kind, target=line.target), line.kind)
    for one in delivery.tries:
        took = f", {span((one.milliseconds or 0) / 1000)}" if one.milliseconds is not None else ""
        detail = f": {one.detail}" if one.detail else ""
        values = {"number": one.number, "fate": one.fate, "detail": detail, "took": took}
        yield Moment(one.began_at, _("Attempt %(number)s: %(fate)s%(detail)s%(took)s", **values), line.kind)
    if line.ended_at is not None:
        reason = f" ({line.reason})" if line.reason else ""
        yield Moment(line.ended_at, _("%(kind)s %(state)s", kind=line.kind, state=line.state) + reason, line.kind)
