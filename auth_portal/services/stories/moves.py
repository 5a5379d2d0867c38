"""Who was named and what was tapped, in plain words: told by the audit's events, each in the order it happened.

Verifications from before an event was recorded are told by what their visits still know: who was named last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from auth_portal.i18n import plain as _
from auth_portal.services.audit import MOST_OF_ONE
from auth_portal.services.method_names import method_name
from auth_portal.services.stories.moments import Moment, counted
from auth_portal.services.stories.record import EventFacts, Record, VisitFacts

CODES = {
    "in_force": "The code that was sent before still counted, so no other one was sent.",
    "none_left": "No code was sent: this chat had used up all its messages, and the page said so.",
}


def named(record: Record) -> Iterator[Moment]:
    """Who was named, first in each browser and then anew."""
    again = {str(event.facts["visit"]): event for event in record.events if event.kind == "named_again"}
    for number, visit in enumerate(record.visits):
        began = _naming(record, number, visit)
        seen = _seen(visit, began, is_last=visit.id not in again)
        if not seen.typed and seen.customer_row is None and visit.id not in again:
            continue
        text, clause = _who(record, seen)
        if number:
            text = _("The link was opened again. %(text)s", text=text) + code_told(began)
            clause = clause or (no_code_left(began) if began is not None else "")
        yield Moment(visit.at, text, clause, "plain" if seen.customer_row else "warn")
    yield from _named_again(record, again)
    if (changes := record.row.identity_changes) and not any("is_other" in event.facts for event in record.events):
        yield Moment(
            record.visits[-1].at if record.visits else record.row.began_at,
            _(
                "Somebody else was named afterwards: %(count)s. Shown is who was named last.",
                count=counted(changes, "time", "times"),
            ),
        )


def _naming(record: Record, number: int, visit: VisitFacts) -> EventFacts | None:
    """The event by which a visit began."""
    if number == 0:
        return next((event for event in record.events if event.kind == "verification_began"), None)
    joined = (event for event in record.events if event.kind == "verification_joined")
    return next((event for event in joined if event.facts["visit"] == visit.id), None)


def _named_again(record: Record, last: Mapping[str, EventFacts]) -> Iterator[Moment]:
    visits = {visit.id: visit for visit in record.visits}
    for event in record.events:
        if event.kind != "named_again":
            continue
        visit = visits.get(str(event.facts["visit"]))
        if visit is None:
            continue
        seen = _seen(visit, event, is_last=event is last[visit.id])
        text, clause = _who(record, seen)
        how = _("Another name was given.") if event.facts["is_other"] else _("The same name was given again.")
        clause = clause or no_code_left(event)
        yield Moment(event.at, f"{how} {text}{code_told(event)}", clause, "plain" if seen.customer_row else "warn")


def _seen(visit: VisitFacts, event: EventFacts | None, *, is_last: bool) -> VisitFacts:
    """A visit as it was when an event named somebody: what was typed is kept of the last time alone."""
    is_erased = event is not None and visit.customer_row is None and event.customer_row is not None
    if event is None or (is_last and not is_erased):
        return visit
    return replace(visit, typed="", customer_row=event.customer_row, is_shared=False)


def _who(record: Record, visit: VisitFacts) -> tuple[str, str]:
    person = record.people.get(visit.customer_row or "")
    if person is not None:
        text = _("Named %(typed)s: customer %(who)s.", typed=visit.typed or "•••", who=person.customer_id)
        if not visit.typed and record.row.ticket_id is not None:
            text = _("The ticket names customer %(who)s.", who=person.customer_id)
        return (text, "") if person.is_active else (f"{text} {_('This customer is disabled.')}", _("customer disabled"))
    if visit.customer_row is not None:
        return _("Named a customer who has been erased since."), ""
    typed = visit.typed or "•••"
    if record.row.ticket_id is not None:
        text = _("Named %(typed)s: not whom the ticket is for. The page does not tell.", typed=typed)
        return text, _("named somebody whom the ticket is not for")
    if visit.is_shared:
        text = _("Named %(typed)s, which several customers share: it names none of them.", typed=typed)
        return text, _("named by a contact that several customers share")
    text = _("Named %(typed)s: nobody in the directory goes by that. The page does not tell.", typed=typed)
    return text, _("named somebody who is not in the directory")


def moves(record: Record) -> Iterator[Moment]:
    """What was tapped beside naming and proving."""
    for event in record.events:
        if event.kind in MOVES and not event.facts.get("is_new_visit"):
            text, clause = MOVES[event.kind](event, record.events)
            yield Moment(event.at, text + code_told(event), clause or no_code_left(event))
    if len(record.events) >= MOST_OF_ONE:
        yield Moment(record.events[-1].at, _("So much was tapped here that not every move was noted."))


def code_told(event: EventFacts | None) -> str:
    """What came of the code that a move asks for, where it is not what one would expect."""
    found = CODES.get(str(event.facts.get("code", "")), "") if event is not None else ""
    return f" {_(found)}" if found else ""


def no_code_left(event: EventFacts) -> str:
    """The clause of a move after which no code came, because there were none left."""
    return _("no code sent: all messages used up") if event.facts.get("code") == "none_left" else ""


def _chosen(event: EventFacts, _events: object) -> tuple[str, str]:
    return _("Chose: %(method)s.", method=method_name(str(event.facts["method"]))), ""


def _resent(event: EventFacts, _events: object) -> tuple[str, str]:
    if event.facts["is_new"]:
        return _("Asked for the code again: a new one was made, and the one before counts no more."), ""
    return _("Asked for the code again: it is the same code once more."), ""


def _taken_back(event: EventFacts, events: tuple[EventFacts, ...]) -> tuple[str, str]:
    visit = event.facts["visit"]
    if any(one.kind == "named_again" and one.facts["visit"] == visit and one.at >= event.at for one in events):
        return _("Went back to say anew who they are."), ""
    return _("Went back to say anew who they are, and named nobody after that."), _("went back and named nobody")


def _joined(_event: EventFacts, _events: object) -> tuple[str, str]:
    return _("The same browser sent its first form again, as a double tap does; it went on where it was."), ""


MOVES: Mapping[str, Callable[[EventFacts, tuple[EventFacts, ...]], tuple[str, str]]] = {
    "method_chosen": _chosen,
    "code_resent": _resent,
    "name_taken_back": _taken_back,
    "verification_joined": _joined,
}
