"""The catalogs: they are in step with the code, nothing is lost in them, and the same texts give the same files."""

from __future__ import annotations

import gettext
import re
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

from auth_portal import i18n
from auth_portal.i18n import CUSTOMER_ERRORS, ERRORS
from auth_portal.services.directory.person import NEW_KEY, STALE_CODE
from auth_portal.web.credentials import WITHOUT_COOKIE
from tests.languages import all_texts, translate
from translations import catalogs
from translations.catalogs import FOLDER, ROOT, faults, header, headers, locales, merged, mo_bytes, plural_rule

OURS = locales()


def message_of(one: catalogs.Merged, text: str) -> Any:
    return one.catalog.get(text)


def ids() -> set[str]:
    return {text for message in all_texts() for text in catalogs.ids_of(message)}


def test_what_customers_read_is_extracted_and_nothing_else() -> None:
    found = ids()
    assert {"Back to the chat", "%(num)s tries left.", "About {n} minutes left", "Send me a code by SMS"} <= found
    assert ERRORS["no_visit"] in found
    assert (
        not {ERRORS[code] for code in ERRORS if code not in CUSTOMER_ERRORS}
        - {ERRORS[code] for code in CUSTOMER_ERRORS}
        & found
    )
    assert not {"Audit", "Settings", "Save", "Second factor", "Verifications", "SMS code"} & found
    about_customers = re.compile(r"\b(?:admins?|owners?|(?:a|the) customers?|customers?'s)\b", re.IGNORECASE)
    assert [text for text in found if about_customers.search(text)] == [], "admins read of customers in English"


def test_a_text_that_has_a_name_is_extracted() -> None:
    assert {NEW_KEY, STALE_CODE, WITHOUT_COOKIE} <= ids()


FOR_PROGRAMS = {
    "customer_id_shared",
    "customer_unknown",
    "journey_closed",
}  # and those of tickets, as Flow's server reads them
RAISED = re.compile(r'(?:Problem|NotFound|Gone|TooMany|Conflict|Busy|error_page)\(\s*"([a-z_]+)"')


def test_every_error_that_a_customer_can_meet_is_translated() -> None:
    package = ROOT / "auth_portal"
    places = ("services/verification", "services/steps", "services/directory", "web/visitor.py", "web/credentials.py")
    files = [path for name in places for path in (package / name).rglob("*.py")]
    files += [package / name for name in (*places, "services/limits.py", "web/edge.py", "crypto.py")]
    raised = {code for path in files if path.is_file() for code in RAISED.findall(path.read_text(encoding="utf-8"))}
    assert {"no_visit", "ticket_gone", "hashing_busy", "csrf"} <= raised
    met = {code for code in raised if code == "ticket_gone" or not code.startswith("ticket_")} - FOR_PROGRAMS
    assert (met & ERRORS.keys()) - CUSTOMER_ERRORS == set()


def test_the_document_lists_every_language_and_who_has_read_it() -> None:
    text = catalogs.DOCUMENT.read_text(encoding="utf-8")
    for locale in ("en", *OURS):
        assert f"| {locale} | " in text, "run `make translations`"


def test_templates_are_found_by_what_customers_pages_use() -> None:
    names = catalogs.customer_templates(ROOT / "templates")
    assert {"layouts/page.html", "macros/fields.html", "visitor/landing.html", "messages/email.txt"} <= set(names)
    assert not [name for name in names if name.startswith(("admin/", "sandbox/")) or "admin" in name]


def test_the_files_are_up_to_date() -> None:
    """While no language is complete, words still change, and the files may lag behind."""
    if any(merged(FOLDER, locale, all_texts()).is_complete for locale in OURS):
        assert catalogs.stale_files() == [], "run `make translations`"


@pytest.mark.parametrize("locale", OURS)
def test_a_catalog_has_no_fault(locale: str) -> None:
    assert faults(merged(FOLDER, locale, all_texts())) == []


@pytest.mark.parametrize("locale", OURS)
def test_a_compiled_catalog_is_that_of_its_source(locale: str) -> None:
    path = FOLDER / locale.replace("-", "_") / "LC_MESSAGES" / "customer.po"
    source = read_po(path.open("rb"))
    with path.with_suffix(".mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert compiled.info()["language"] == locale
    for message in source:
        if message.id and not message.fuzzy and all(catalogs.forms_of(message)):
            found = [compiled._catalog.get(key) for key in _keys(catalogs.ids_of(message), message)]  # type: ignore[attr-defined]
            assert tuple(found) == catalogs.forms_of(message)


def _keys(ids: tuple[str, ...], message: Message) -> list[object]:
    return [(ids[0], place) for place in range(len(catalogs.forms_of(message)))] if len(ids) > 1 else [ids[0]]


def test_the_same_texts_give_the_same_files(tmp_path: Path) -> None:
    translate(tmp_path, "ar")
    catalogs.renew(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(before) == 3
    assert catalogs.renew(tmp_path) == []
    assert {path: path.read_bytes() for path in before} == before
    text = (tmp_path / "ar" / "LC_MESSAGES" / "customer.po").read_text(encoding="utf-8")
    assert not re.findall(r"^#:.*:\d", text, re.MULTILINE)
    assert "Date" not in text.partition("\n\n")[0]


def test_a_reworded_text_is_to_be_looked_at_again_and_a_new_one_is_empty(tmp_path: Path) -> None:
    translate(tmp_path, "zu")
    path = tmp_path / "zu" / "LC_MESSAGES" / "customer.po"
    text = path.read_text(encoding="utf-8")
    text = text.replace('msgid "Back to the chat"', 'msgid "Back into the chat"')
    start = text.index('msgid "Customer number"')
    path.write_text(text[:start] + text[text.index("\n\n", start) :].lstrip("\n"), encoding="utf-8")
    one = merged(tmp_path, "zu", all_texts())
    assert message_of(one, "Back to the chat").fuzzy
    assert not message_of(one, "Customer number").string or message_of(one, "Customer number").fuzzy
    found = faults(one)
    assert len(found) == 2, found
    assert "look again at: 'Back to the chat'" in " ".join(found)
    with_marks = catalogs.Merged("zu", {**one.marks, "X-Complete": "no"}, one.catalog)
    assert faults(with_marks) == [], "a language that is being translated may miss texts"
    assert b"[zu] Back to the chat" not in mo_bytes(one)


BROKEN = {
    "Use the details %(business)s has on file.": {
        "[zu] %(busines)s.": "other placeholders",
        "[zu] without": "other placeholders",
        "[zu] %(business)s and %(business)s": "other placeholders",
        "[zu] 50 % of %(business)s": "a % that is no placeholder",
        "[zu] <b>%(business)s</b>": "other HTML",
        "[zu] <script>%(business)s": "other HTML",
        "[zu] 3 < 4 %(business)s": "a < that is no tag",
        " [zu] %(business)s": "other spaces at the ends",
    },
}


@pytest.mark.parametrize(
    ("english", "broken", "why"), [(i, b, w) for i, some in BROKEN.items() for b, w in some.items()]
)
def test_what_is_not_words_survives(tmp_path: Path, english: str, broken: str, why: str) -> None:
    translate(tmp_path, "zu")
    one = merged(tmp_path, "zu", all_texts())
    assert faults(one) == []
    message_of(one, english).string = broken
    assert [fault for fault in faults(one) if why in fault and len(faults(one)) == 1]


def test_a_plural_may_say_a_small_number_in_words_and_no_other(tmp_path: Path) -> None:
    translate(tmp_path, "ar")
    one = merged(tmp_path, "ar", all_texts())
    text = message_of(one, "%(num)s try left.")
    assert len(text.string) == 6
    text.string = ("none", "one", "two", *text.string[3:])
    assert faults(one) == []
    text.string = (*text.string[:5], "many")
    assert len(faults(one)) == 1
    text.string = ("one", "two")
    assert "plural forms" in " ".join(faults(one))


def test_plurals_are_those_of_the_cldr() -> None:
    """Whole numbers alone: none is written with an exponent."""
    for locale, examples in {
        "en": {1: 0, 0: 1, 2: 1},
        "zu": {0: 0, 1: 0, 2: 1},
        "fr": {0: 0, 1: 0, 2: 2, 1_000_000: 1},
        "es": {0: 2, 1: 0, 2: 2},
        "ar": {0: 0, 1: 1, 2: 2, 3: 3, 11: 4, 100: 5, 103: 3},
        "sw": {0: 1, 1: 0},
    }.items():
        rule, categories = plural_rule(locale)
        form = gettext.c2py(rule.partition("plural=")[2].rstrip(";"))
        assert {n: form(n) for n in examples} == examples
        assert f"nplurals={len(categories)};" in rule


def test_a_language_says_what_it_is_called_and_which_way_it_is_read(tmp_path: Path) -> None:
    said = {locale: headers(header(locale, dict.fromkeys(catalogs.MARKS, "no"))) for locale in ("ar", "zu", "xh", "fr")}
    assert said["ar"]["X-Direction"] == "rtl"
    assert said["ar"]["X-Plural-Categories"] == "zero one two few many other"
    names = [said[locale]["X-Own-Name"] for locale in ("zu", "xh", "fr")]
    assert names == ["isiZulu", "isiXhosa", "Français"]
    assert catalogs.main(["klingon-and-more"]) == 2


@pytest.mark.parametrize(
    ("accepted", "expected"),
    [
        ("zu", "zu"),
        ("ZU-za", "zu"),
        ("en-ZA, zu;q=0.9", "en"),
        ("zu;q=0.1, fr;q=0.9, en;q=0.5", "fr"),
        ("zu;q=0, fr", "fr"),
        ("xx, fr;q=0.3", "fr"),
        ("zh-Hans-CN, ar-EG;q=0.2", "ar"),
        ("zh-Hans-CN", ""),
        ("*", ""),
        ("*, fr", ""),
        ("fr;q=2", ""),
        ("fr;q=high, zu", "zu"),
        ("fr ; q=0.5 , zu", "zu"),
        (";;;,,,q=1,../../etc,<script>,fr", "fr"),
        ("pt_BR", "pt-BR"),
        ("pt", "pt-BR"),
        ("x" * 5000 + ",zu", ""),
        (",".join(["xx"] * 100) + ",zu", ""),
        ("", ""),
    ],
)
def test_a_browser_gets_what_it_likes_best(accepted: str, expected: str) -> None:
    assert i18n.preferred(accepted, ("en", "zu", "fr", "ar", "pt-BR")) == expected


def test_a_tag_is_cut_from_its_end() -> None:
    offered = ("en", "pt", "pt-BR", "zh-Hant")
    assert i18n.matched("pt-BR-x-bank", offered) == "pt-BR"
    assert i18n.matched("pt-AO", offered) == "pt"
    assert i18n.matched("zh-Hant-TW", offered) == "zh-Hant"
    assert i18n.matched("../pt", offered) == ""
