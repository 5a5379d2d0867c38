"""The step in which terms are read and accepted, or declined.

A text is written in a part of Markdown: headings, paragraphs, lists, bold and links to https. HTML in it is shown as it
was typed. Instead, a link may lead to a document, whose SHA-256 says which one was accepted.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Collection, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field, model_validator

from auth_portal.clock import iso
from auth_portal.services.steps.contract import (
    FACT_KEY,
    FormData,
    Given,
    LongTexts,
    PageTime,
    Step,
    Taken,
    Texts,
    first,
    language_of,
    read_texts,
    text_of,
    without_empty,
)

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

DECLINED = "declined"
WORDS_A_MINUTE = 200
VERSION_LENGTH = 40
TIME_LENGTH = 20  # of 2026-11-22T19:05:00Z
NEW_TAB = {"target": "_blank", "rel": "noopener noreferrer"}  # a page that is left in a web view may not come back
HEADINGS = {"h1": "h2", "h2": "h3"}  # the page has its own h1

Link = Annotated[str, Field(pattern=r"^https://[^\s<>\"]{1,290}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TermsBox(BaseModel):
    """A checkbox. The flow gets "yes" or "no" for one that is not required, as a variable with its key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: Annotated[str, Field(pattern=FACT_KEY)]
    label: Texts
    required: bool = True


@dataclass(frozen=True)
class BoxView:
    """A checkbox as the page shows it."""

    key: str
    label: str
    is_required: bool
    is_ticked: bool


@dataclass(frozen=True)
class TermsView:
    """The terms in one language. ``text`` is HTML; without it ``link`` leads to them."""

    title: str
    version: str
    valid_from: str
    language: str
    digest: str
    text: Markup
    link: str
    minutes: int
    boxes: Sequence[BoxView]


class Terms(Step):
    """Accept a version of a text. ``again`` says whether a customer who accepted this version reads it again."""

    is_single = True
    add_label = "Add terms"
    stage = "terms"
    outcomes = (DECLINED,)

    kind: Literal["terms"] = "terms"
    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+$", max_length=VERSION_LENGTH)]
    valid_from: Annotated[str, Field(pattern=r"^(\d{4}-\d\d-\d\d)?$")] = ""
    title: Texts
    text: LongTexts = Field(default_factory=dict)
    link: dict[str, Link] = Field(default_factory=dict)
    sha256: dict[str, Digest] = Field(default_factory=dict)
    boxes: Annotated[tuple[TermsBox, ...], Field(max_length=6)] = ()
    again: Literal["always", "changed"] = "always"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if bool(self.text) == bool(self.link):
            raise ValueError("needs either a text or a link")
        if self.link.keys() != self.sha256.keys():
            raise ValueError("needs the sha256 of the document behind each link, by language, and no other")
        if self.valid_from:
            date.fromisoformat(self.valid_from)
        if len({box.key for box in self.boxes}) < len(self.boxes):
            raise ValueError("has two boxes with the same key")
        return self

    @property
    def digests(self) -> Mapping[str, str]:
        """Return the SHA-256 of the text or document in each language."""
        return self.sha256 or {language: _digest(text) for language, text in self.text.items()}

    @property
    def chosen_keys(self) -> tuple[str, ...]:
        """Return the keys of its boxes."""
        return tuple(box.key for box in self.boxes)

    @property
    def longest(self) -> Mapping[str, int]:
        """Return the version, when it was accepted, and the boxes that are not required."""
        optional = {box.key: 3 for box in self.boxes if not box.required}
        return {"terms_version": VERSION_LENGTH, "terms_accepted_at": TIME_LENGTH, **optional}

    @property
    def example(self) -> Mapping[str, str]:
        """Return values such as these variables may have."""
        times = {"terms_version": self.version, "terms_accepted_at": "2026-11-22T19:05:00Z"}
        return {**dict.fromkeys(self.longest, "yes"), **times}

    def values(self, given: Given) -> Mapping[str, str]:
        """Return the values of these variables."""
        ticked = given.get("boxes", ())
        values = {name: "yes" if name in ticked else "no" for name in self.longest}
        return {**values, "terms_version": given["version"], "terms_accepted_at": given["accepted_at"]}

    def take(self, form: FormData, given: Given, at: PageTime) -> Taken:
        """Accept, or decline. What was accepted is the text whose digest the page sent."""
        if first(form, "decline") == "terms":
            return Taken(outcome=DECLINED, event="terms_declined", facts={"version": self.version})
        ticked = [box.key for box in self.boxes if box.key in form.getlist("accept")]
        is_accepted = all(box.key in ticked for box in self.boxes if box.required)
        if not (is_accepted if self.boxes else first(form, "accept")):
            return Taken(faults={"accept": "terms_not_accepted"})
        shown, digests = first(form, "text"), self.digests
        languages = [language for language, digest in digests.items() if digest == shown]
        language = languages[0] if languages else language_of(digests, at.locale)
        facts = {"version": self.version, "language": language or at.locale, "sha256": digests[language]}
        accepted = {**facts, "boxes": ticked, "accepted_at": iso(at.now)}
        return Taken(given=accepted, is_done=True, event="terms_accepted", facts={**facts, "boxes": ticked})

    def is_met_by(self, digest: str, boxes: Collection[str]) -> bool:
        """Report whether this text was accepted, with every box that is required now."""
        return digest in self.digests.values() and all(box.key in boxes for box in self.boxes if box.required)

    def given_before(self, accepted_at: datetime, boxes: list[str]) -> Given:
        """Return what stands for terms that the customer accepted in an earlier verification."""
        return {"version": self.version, "accepted_at": iso(accepted_at), "boxes": boxes, "is_old": True}

    def view(self, given: Given, at: PageTime, typed: FormData | None = None) -> TermsView:
        """Return the terms in the language of the page."""
        language = language_of(self.digests, at.locale)
        text = self.text.get(language, "")
        ticked = typed.getlist("accept") if typed is not None else ()
        return TermsView(
            title=text_of(self.title, at.locale),
            version=self.version,
            valid_from=at.day(self.valid_from) if self.valid_from else "",
            language=language or at.locale,
            digest=self.digests[language],
            text=rendered(text),
            link=self.link.get(language, ""),
            minutes=-(-len(text.split()) // WORDS_A_MINUTE),
            boxes=[BoxView(b.key, text_of(b.label, at.locale), b.required, b.key in ticked) for b in self.boxes],
        )

    @classmethod
    def read_form(cls, form: FormData, field: str) -> dict[str, Any] | None:
        """Return the terms that were typed; nothing at all leaves the step out. A box is a line ``key: label``."""
        typed = {name: first(form, f"{field}.{name}").strip() for name in FIELDS}
        if not any(typed.values()):
            return None
        boxes = []
        for line in typed["boxes"].splitlines():
            key, _colon, label = line.partition(":")
            if line.strip():
                is_optional = key.strip().endswith("?")
                box = {"key": key.strip().rstrip("? "), "label": read_texts(label)}
                boxes.append({**box, "required": False} if is_optional else box)
        values: dict[str, Any] = {name: read_texts(typed[name]) for name in ("title", "text", "link", "sha256")}
        values |= {name: typed[name] for name in ("version", "valid_from")}
        again = "changed" if first(form, f"{field}.again") else ""
        return {"kind": "terms", **without_empty({**values, "boxes": tuple(boxes), "again": again})}


FIELDS = ("version", "valid_from", "title", "text", "link", "sha256", "boxes")


@lru_cache(maxsize=256)
def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@lru_cache(maxsize=256)
def rendered(text: str) -> Markup:
    """Return a text in our part of Markdown as HTML."""
    html: str = markdown_parser().render(text)
    return Markup(html)  # nosec B704  # noqa: S704 -- the parser escapes everything that it does not know


@cache
def markdown_parser() -> MarkdownIt:
    """Return the parser of our part of Markdown."""
    # Only here: it has 68 modules, and most portals ask no one to accept anything.
    parser: MarkdownIt = importlib.import_module("markdown_it").MarkdownIt("zero")
    parser.enable(["heading", "list", "emphasis", "link", "escape", "newline"])
    parser.validateLink = is_safe_link  # type: ignore[method-assign, assignment]
    parser.add_render_rule("link_open", in_new_tab)
    for name in ("heading_open", "heading_close"):
        parser.add_render_rule(name, lower_heading)
    return parser


def is_safe_link(address: str) -> bool:
    """Report whether a text may link there."""
    return address.lower().startswith("https://")


def in_new_tab(
    renderer: RendererHTML, tokens: Sequence[Token], place: int, options: Any, _env: MutableMapping[str, Any]
) -> str:
    """Render the beginning of a link."""
    for name, value in NEW_TAB.items():
        tokens[place].attrSet(name, value)
    return renderer.renderToken(tokens, place, options, _env)


def lower_heading(
    renderer: RendererHTML, tokens: Sequence[Token], place: int, options: Any, _env: MutableMapping[str, Any]
) -> str:
    """Render the beginning or end of a heading, below that of the page."""
    tokens[place].tag = HEADINGS.get(tokens[place].tag, "h4")
    return renderer.renderToken(tokens, place, options, _env)
