"""A verification in plain words: from what is on record to sentences that can be read to whoever calls.

``moments`` says what happened, each with a short clause for the one-sentence ``headline``. Nothing here decides or
reads; nothing shows a code, a whole reference or a whole contact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from itertools import groupby

from auth_portal.i18n import plain as _
from auth_portal.methods import CARRIES, words_of
from auth_portal.services.directory.customers import Person
from auth_portal.services.method_names import method_name
from auth_portal.services.outbox import State
from auth_portal.services.results import VERIFIED
from auth_portal.services.stories.advice import helps
from auth_portal.services.stories.audit_words import WHY_ENDED, WHY_WRONG
from auth_portal.services.stories.moments import Moment, counted, span
from auth_portal.services.stories.moves import code_told, moves, named, no_code_left
from auth_portal.services.stories.record import CodeFacts, DeliveryFacts, EventFacts, Record

TIME_WAS_OVER = "its time was over"
OUTCOMES = {
    "wrong": ("all tries were wrong", "It ended because all tries were spent on wrong proofs."),
    "expired": ("time ran out", "It ended because the time to prove was over: nobody finished in time."),
    "cancelled": ("cancelled", "The customer cancelled."),
    "not_me": ("declined", "Somebody said “I did not ask for this”. The link may have been sent on to them."),
    "no_code": ("no code came", "The customer said that no code had come."),
    "unavailable": ("could not be done", ""),
}
CLAUSE_OF = {
    "asked_anew": "replaced by a newer ticket",
    "no_next_step": "nothing on file for the next step",
    "journey_off": "could not be done (journey off)",
    "no_channel": "could not be done (no channel on)",
}
AFTER_THE_END = {
    "wrong": "again", "expired": "again", "cancelled": "again", "asked_anew": "newer", "no_next_step": "no_next_step",
    "unavailable": "closed", "journey_off": "closed", "no_channel": "closed", "sandbox_off": "closed",
}  # fmt: skip
OTHER_COUNTRY = "the channel does not send to "
NOT_SENT = {
    "destination limit reached": "as many as this contact may be sent in an hour or a day had been sent already",
    "the channel's daily cap is reached": "the channel had reached its daily cap",
    "too many wrong tries with this method": "the customer's tries with this method are spent",
    "the code is no longer in force": "the code had been used or replaced before the message could leave",
    "the contact on file has changed since": "the contact on file changed after the code was issued",
    TIME_WAS_OVER: "the code's time was over before the message could leave",
}
NOT_TOLD = {
    400: " Flow knew no waiting chat for this link: the chat had moved on or ended, or the link was made up.",
    401: " The callback server wants a password; Flow's own servers do not.",
    404: " The callback address is not right; see the journey.",
}


def headline(told: tuple[Moment, ...]) -> str:
    """The whole story in one sentence."""
    text = ", ".join(moment.clause for moment in told if moment.clause)
    return f"{text[:1].upper()}{text[1:]}."


def moments(record: Record) -> list[Moment]:
    """What happened, in order."""
    told = [_began(record), *named(record), *moves(record), *_sent(record), *_judged(record)]
    told += [*_ended(record), *_told(record), *_retried(record)]
    told.sort(key=lambda moment: moment.at)  # stable: what happened at one moment stays in this order
    return list(_advised(told))


def _advised(told: list[Moment]) -> Iterator[Moment]:
    """The moments with what helps, each advice where it is needed first."""
    given = {""}
    for moment in told:
        yield moment if moment.advice in given else replace(moment, text=f"{moment.text} {moment.advice}")
        given.add(moment.advice)


def _began(record: Record) -> Moment:
    row = record.row
    text = _("Began on the journey “%(name)s”.", name=record.journey.name)
    if row.dropped_parameters:
        text += " " + _("An app had added %(names)s to the link; it was left out.", names=row.dropped_parameters)
    return Moment(row.began_at, text, _("began %(at)s", at=record.time(row.began_at)))


def _sent(record: Record) -> Iterator[Moment]:
    codes = {code.id: code for code in record.codes}
    seen: set[str] = set()
    for message in record.messages:
        code = codes.get(message.line.challenge_id or "")
        is_again = message.line.challenge_id in seen
        seen.add(message.line.challenge_id or "")
        yield _message(record, message, code, is_again=is_again)


def _message(record: Record, message: DeliveryFacts, code: CodeFacts | None, *, is_again: bool) -> Moment:
    line, what = message.line, _what(record, message, code)
    to = _(" to %(contact)s", contact=code.contact) if code and code.contact else ""
    again = _(" once more") if is_again else ""
    channel, last = _channel(record, line.target), message.tries[-1] if message.tries else None
    if line.state == State.ACCEPTED and last is not None and last.ended_at is not None:
        took = span((last.ended_at - line.created_at).total_seconds() or (last.milliseconds or 0) / 1000)
        values = {"what": what, "channel": channel, "took": took, "to": to, "again": again}
        clause = _("%(what)s handed to %(channel)s%(again)s in %(took)s", **values)
        return Moment(
            line.created_at, _("%(what)s handed to %(channel)s%(to)s%(again)s in %(took)s.", **values), clause
        )
    if line.state == State.DROPPED:
        why, reason = _why_not_sent(record, line.reason, code)
        text = _("No %(what)s was sent: %(why)s. The page does not tell.", what=what, why=why)
        return Moment(line.created_at, text, _("no %(what)s sent: %(why)s", what=what, why=why), "bad", helps(reason))
    if line.state == State.PENDING:
        reason = f" ({line.reason})" if line.reason and last else ""
        values = {"what": what, "channel": channel, "tries": counted(line.attempts, "try", "tries"), "reason": reason}
        text = _("%(what)s not yet handed to %(channel)s after %(tries)s%(reason)s.", **values)
        return Moment(line.created_at, text, _("%(what)s still waiting for %(channel)s", **values), "warn")
    values = {"what": what, "channel": channel, "tries": counted(line.attempts, "try", "tries")}
    values["reason"] = line.reason.rstrip(".")
    text = _("%(what)s was not taken by %(channel)s after %(tries)s: %(reason)s.", **values)
    clause = _("%(what)s not taken by %(channel)s: %(reason)s", **values)
    return Moment(line.created_at, text, clause, "bad", helps("not_taken"))


def _what(record: Record, message: DeliveryFacts, code: CodeFacts | None) -> str:
    if code is not None:
        return "SMS" if CARRIES.get(code.method) == "sms" else _("e-mail")
    channel = record.channels.get(message.line.target)
    return "SMS" if channel is not None and channel.message_kinds == {"sms"} else _("message")


def _channel(record: Record, name: str) -> str:
    channel = record.channels.get(name)
    return "Clickatell" if channel is not None and channel.kind == "clickatell" else _("channel “%(name)s”", name=name)


def _why_not_sent(record: Record, reason: str, code: CodeFacts | None) -> tuple[str, str]:
    """Why a message did not leave, and by what name there is advice for it."""
    if reason == "nobody to send to" and code is not None:
        return _why_nobody(record, code)
    if reason in NOT_SENT:
        return _(NOT_SENT[reason]), reason
    return reason or _("no reason is on record"), "country" if reason.startswith(OTHER_COUNTRY) else ""


def _why_nobody(record: Record, code: CodeFacts) -> tuple[str, str]:
    """The directory as it is now; the message row only knows that there was nobody."""
    person = record.people.get(code.customer_row or "")
    if code.customer_row is None and record.row.ticket_id is not None:
        return _("who was named is not whom the ticket is for"), "ticket"
    if code.customer_row is None:
        is_shared = any(visit.is_shared for visit in record.visits)
        if is_shared:
            return _("several customers share what was typed, so it names none of them"), "shared"
        return _("nobody in the directory goes by what was typed"), "nobody"
    if person is None:
        return _("the customer has been erased since"), ""
    return _why_no_contact(person, CARRIES.get(code.method, "email"))


def _why_no_contact(person: Person, carries: str) -> tuple[str, str]:
    if not person.is_active:
        return _("customer %(who)s is disabled", who=person.customer_id), "disabled"
    contact = _("phone number") if carries == "sms" else _("e-mail address")
    if not person.has_contact(carries):
        return _("customer %(who)s has no %(contact)s on file", who=person.customer_id, contact=contact), "no_contact"
    return _("customer %(who)s had no %(contact)s on file then", who=person.customer_id, contact=contact), ""


def _judged(record: Record) -> Iterator[Moment]:
    """Proofs; wrong ones in a row with one method and reason are told together."""
    proofs = [event for event in record.events if event.kind in ("proof_failed", "step_passed")]
    for (kind, method, why), some in groupby(proofs, key=_alike):
        events = list(some)
        yield from map(_passed, events) if kind == "step_passed" else [_wrong(record, events, method, why)]


def _alike(event: EventFacts) -> tuple[str, str, str]:
    return event.kind, str(event.facts.get("method") or ""), str(event.facts.get("why") or "")


def _passed(event: EventFacts) -> Moment:
    how = method_name(str(event.facts.get("method") or ""))
    clause = _("%(how)s proved", how=how) + (f", {no_code}" if (no_code := no_code_left(event)) else "")
    return Moment(event.at, _("Proved the %(how)s.", how=how) + code_told(event), clause, "good")


def _wrong(record: Record, events: list[EventFacts], method: str, why: str) -> Moment:
    what = words_of(method).proof
    count = counted(len(events), f"wrong {what}", f"wrong {what}s")
    until = _(", the last at %(at)s", at=record.time(events[-1].at)) if events[-1].at != events[0].at else ""
    text = f"{count[:1].upper()}{count[1:]} ({method_name(method)}{until})."
    if why in WHY_WRONG:
        text += f" {_(WHY_WRONG[why])} {_('The page does not tell.')}"
    clauses = {
        "spent": _("tries spent before"),
        "disabled": _("customer disabled"),
        "nothing_on_file": _("nothing on file"),
    }
    clause = f"{count} ({clauses[why]})" if why in clauses else count
    return Moment(events[0].at, text, clause, "bad" if why else "warn", helps(why))


def _ended(record: Record) -> Iterator[Moment]:
    row = record.row
    if row.outcome is None:
        left = (row.proofs_until - record.now).total_seconds()
        text = _("Still under way: %(left)s left to prove it, %(tries)s left.", left=span(left), tries=_left(record))
        if record.is_closed:
            text += " " + _("The journey has been switched off since; whoever had begun may finish.")
        yield Moment(record.now, text, _("still under way, %(left)s left", left=span(left)))
        return
    at = record.time(row.ended_at)
    if row.outcome == VERIFIED:
        how = _(" and ").join(method_name(method) for method in row.methods.split("+"))
        yield Moment(row.ended_at, _("Verified with %(how)s.", how=how), _("verified %(at)s", at=at), "good")
        return
    clause, text = OUTCOMES.get(row.outcome, (str(row.outcome), str(row.outcome)))
    why = next((str(event.facts["why"]) for event in record.events if _tells_why_it_ended(event)), "")
    text = _(WHY_ENDED.get(why) or text) if why or text else _why_unavailable(record)
    clause = _(CLAUSE_OF.get(why, clause))
    yield Moment(row.ended_at, text, f"{clause} {at}", "bad", helps(AFTER_THE_END.get(why or row.outcome, "")))


def _tells_why_it_ended(event: EventFacts) -> bool:
    return event.kind == "verification_ended" and "why" in event.facts


def _why_unavailable(record: Record) -> str:
    kinds = {event.kind for event in record.events}
    if "step_passed" in kinds:
        return _("It could not go on: the customer has nothing on file for the next step, or no channel for it works.")
    if "verification_began" in kinds:
        return _("It could not go on: the journey was switched off, or no channel of it worked any more.")
    return _("It could not begin: the journey was switched off, or no channel of it worked.")


def _left(record: Record) -> str:
    return counted(max(0, record.journey.limits.wrong_tries - record.row.wrong_tries), "try", "tries")


def _told(record: Record) -> Iterator[Moment]:
    if record.callback is None:
        return
    line, tries = record.callback.line, record.callback.tries
    last = tries[-1] if tries else None
    at = (last.ended_at or last.began_at) if last else line.created_at
    result = record.journey.results.get(record.row.outcome, "")
    values = {"result": result, "tries": counted(len(tries), "try", "tries"), "last": _last_answer(record.callback)}
    if line.state == State.ACCEPTED and last is not None:
        yield _accepted(record, result, at, _total(record, at, last.milliseconds), len(tries))
    elif line.state == State.PENDING:
        text = _("The chat is not told “%(result)s” yet, after %(tries)s: %(last)s.", **values)
        yield Moment(at, text, _("chat not told yet (%(last)s)", **values), "warn")
    elif line.state == State.SUPERSEDED:
        text = _("The answer “%(result)s” was withdrawn: the link was begun again before the chat took it.", **values)
        clause = _("answer withdrawn because the link was begun again")
        yield Moment(line.ended_at or at, text, clause, "warn", helps("newer"))
    else:
        yield _not_told(line.state, at, values, last.status if last else None)


def _last_answer(callback: DeliveryFacts) -> str:
    """What the last try came to; that the time was over is no answer."""
    line = callback.line
    if line.reason == TIME_WAS_OVER:
        answers = (one.detail for one in reversed(callback.tries))
        return next((text for text in answers if text and text != TIME_WAS_OVER), line.reason)
    return line.reason or _("no answer yet")


def _total(record: Record, at: datetime, milliseconds: int | None) -> float:
    """Seconds from the end to the chat's taking it; what the attempt itself took where clocks show nothing."""
    return (at - record.row.ended_at).total_seconds() or (milliseconds or 0) / 1000


def _accepted(record: Record, result: str, at: datetime, seconds: float, tries: int) -> Moment:
    left = (record.row.chat_ends_at - at).total_seconds()
    again = _(", at the %(n)s. try", n=tries) if tries > 1 else ""
    rest = _("with %(left)s left", left=span(left)) if left > 0 else _("after the chat's time was over")
    values = {"result": result, "took": span(seconds), "again": again, "rest": rest}
    text = _("The chat was told “%(result)s” in %(took)s%(again)s, %(rest)s.", **values)
    return Moment(at, text, _("chat told in %(took)s %(rest)s", **values), "good")


def _not_told(state: str, at: datetime, values: dict[str, str], status: int | None) -> Moment:
    if state == State.UNCONFIRMED:
        text = _(
            "It is not known whether the chat took “%(result)s”: %(tries)s, and no clear answer to each.", **values
        )
        text += " " + _("The last one: %(last)s.", **values)
        return Moment(at, text, _("not known whether the chat was told"), "bad", helps("untold"))
    if state == State.REFUSED:
        text = _("Flow refused “%(result)s” after %(tries)s: %(last)s.", **values) + _(NOT_TOLD.get(status or 0, ""))
        return Moment(at, text, _("chat refused the answer (%(last)s)", **values), "bad", helps("untold"))
    text = _("The chat was not told “%(result)s”: given up after %(tries)s, the last one: %(last)s.", **values)
    return Moment(at, text, _("chat never told (%(last)s)", **values), "bad", helps("untold"))


def _retried(record: Record) -> Iterator[Moment]:
    for event in record.events:
        if event.kind == "delivery_retried":
            what = _("answer") if event.facts.get("what") == "callback" else _("message")
            values = {"what": what, "who": event.admin or _("the API"), "reason": event.facts.get("reason", "")}
            yield Moment(event.at, _("%(who)s had the %(what)s sent again: %(reason)s", **values))
