"""Extract what customers read, merge it into each language's catalog, and compile the catalogs.

``make translations`` runs this. ``NEW=zu`` adds a language. The same texts give the same files, byte for byte: a
catalog names the files of a text but no lines, and no dates. docs/languages.md says how to translate.
"""

from __future__ import annotations

import importlib
import re
import struct
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po, write_po
from babel.plural import to_gettext
from jinja2 import Environment
from jinja2.meta import find_referenced_templates

from auth_portal.i18n import CUSTOMER_ERRORS, DOMAIN, ERRORS
from auth_portal.methods import METHODS
from auth_portal.services.directory import links
from auth_portal.services.directory.credentials import RESETTABLE, SUPPORT_TEXT
from auth_portal.services.directory.fields import NOTIFIED
from auth_portal.services.imports.notify import QUESTION

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "translations"
DOCUMENT = ROOT / "docs" / "languages.md"
TABLE = ("<!-- languages: written by make translations -->", "<!-- end of languages -->")
# Where a customer's way begins; what these extend, import or include is found from there.
PAGES = ("error.html", "visitor/*.html", "methods/*.html", "steps/*.html", "messages/*")
# Code whose texts are for customers alone. In a module for both, ``_`` is for customers (see KEYWORDS).
CODE = (
    "auth_portal/methods/*.py",
    "auth_portal/services/delivery/texts.py",
    "auth_portal/services/directory/links.py",
    "auth_portal/services/steps/*.py",
    "auth_portal/services/verification/*.py",
    "auth_portal/web/credentials.py",
    "auth_portal/web/visitor.py",
)
FOR_ADMINS = ("auth_portal/methods/__init__.py",)
KEYWORDS: dict[str, tuple[int, ...] | None] = {
    "_": None,
    "gettext": None,
    "plain": None,
    "translated": None,
    "ngettext": (1, 2),
    "plain_plural": (1, 2),
    "plurals": (2, 3),
}
METHOD_WORDS = ("choice", "hint", "begin", "approve")  # of a method's words, what customers read
CATEGORIES = ("zero", "one", "two", "few", "many", "other")  # of the CLDR, in the order in which plural forms stand
OF_ONE_NUMBER = ("zero", "one", "two")  # categories in which a text may say the number in words
MARKS = ("X-Complete", "X-Read-By-Native-Speaker")  # headers that people set, "yes" or "no"
_HEADER = re.compile(r'\Amsgid ""\nmsgstr ""\n((?:".*"\n)+)', re.MULTILINE)
_PLACEHOLDER = re.compile(r"%\(\w+\)s|\{\w+\}|%%")
_CONSTANT = re.compile(r"\b_\(([A-Z][A-Z_]+)\)")  # a text that has a name, as two pages show it
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")


@dataclass(frozen=True)
class Merged:
    """A language's catalog with the texts of today."""

    locale: str
    marks: dict[str, str]
    catalog: Catalog

    @property
    def is_complete(self) -> bool:
        """Return True if it is said to miss no text."""
        return self.marks["X-Complete"] == "yes"

    @property
    def path(self) -> Path:
        """Return the path of the catalog within the folder of translations."""
        return Path(self.locale.replace("-", "_")) / "LC_MESSAGES" / f"{DOMAIN}.po"


# --- Extract


def template(root: Path = ROOT) -> Catalog:
    """Return every text that customers read, with the files in which it stands."""
    catalog = Catalog(fuzzy=False)
    for path, text in _texts(root):
        catalog.add(text, locations=[(path, 0)])
    for method in METHODS.values():
        for word in METHOD_WORDS:
            if text := getattr(method.words, word):
                catalog.add(text, locations=[(f"{method.__module__.replace('.', '/')}.py", 0)])
    for text in notice_texts():
        catalog.add(text, locations=[("auth_portal/services/directory", 0)])
    for code in CUSTOMER_ERRORS:
        catalog.add(ERRORS[code], locations=[("auth_portal/i18n.py", 0)])
    for message in catalog:
        message.locations = sorted(set(message.locations))
        message.flags.discard("python-format")
    return catalog


def notice_texts() -> Iterator[str]:
    """Yield what customers are notified of. Each is a whole sentence, made of the name of what was changed."""
    for label in NOTIFIED.values():
        yield from (f"Your {label} was {verb}" for verb in ("changed", "removed"))
    for name in RESETTABLE:
        yield f"Your {METHODS[name].words.name} was removed"
    for name in ("password", "totp"):  # what a link can be for
        yield f"Your {METHODS[name].words.name} was set"
        yield f"We created a link to set your {METHODS[name].words.name}"
    yield from ("Set your password", "Set up your authenticator app", "A temporary code was issued")
    yield from (links.LINK_TEXT, links.IN_PERSON, links.UNASKED, links.NOT_YOU)
    yield from (QUESTION, SUPPORT_TEXT)


def _texts(root: Path) -> Iterator[tuple[str, str | tuple[str, ...]]]:
    """Yield each text with its file; one with plurals as a pair; of what has a name, the name must be a constant."""
    options = {"newstyle_gettext": "true", "trimmed": "true", "silent": "false"}
    for name in customer_templates(root / "templates"):
        path = root / "templates" / name
        for found in extract_from_file("jinja2.ext:babel_extract", str(path), KEYWORDS, (), options):
            yield f"templates/{name}", found[1]
    for path in sorted(path for pattern in CODE for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        if name not in FOR_ADMINS:
            for found in extract_from_file("python", str(path), KEYWORDS):
                yield name, found[1]
            for constant in _CONSTANT.findall(path.read_text(encoding="utf-8")):
                module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
                yield name, getattr(module, constant)


def customer_templates(folder: Path) -> list[str]:
    """Return the templates of customers' pages and messages, and all that these extend, import or include."""
    environment = Environment(extensions=["jinja2.ext.i18n"])  # nosec B701 -- nothing is rendered
    todo = [path.relative_to(folder).as_posix() for pattern in PAGES for path in folder.glob(pattern)]
    found: set[str] = set()
    while todo:
        name = todo.pop()
        if name in found or not (folder / name).is_file():
            continue
        found.add(name)
        tree = environment.parse((folder / name).read_text(encoding="utf-8"))
        todo += [other for other in find_referenced_templates(tree) if other is not None]
    return sorted(found)


# --- Merge


def locales(folder: Path = FOLDER) -> list[str]:
    """Return the languages that have a folder."""
    found = folder.glob(f"*/LC_MESSAGES/{DOMAIN}.po")
    return sorted(path.parent.parent.name.replace("_", "-") for path in found)


def merged(folder: Path, locale: str, texts: Catalog) -> Merged:
    """Return a language's catalog with the texts of today: what is new is empty, what was reworded is fuzzy."""
    path = folder / locale.replace("-", "_") / "LC_MESSAGES" / f"{DOMAIN}.po"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    said = headers(text)
    marks = {mark: "yes" if said.get(mark) == "yes" else "no" for mark in MARKS}
    # Our own header first: the number of plural forms is that of the CLDR, whatever the file says.
    body = _HEADER.sub("", text, count=1)
    catalog = read_po(BytesIO((header(locale, marks) + "\n" + body).encode()), locale=Locale.parse(locale, sep="-"))
    catalog.update(texts)
    catalog.obsolete.clear()
    for message in catalog:
        message.flags.discard("python-format")
        message.previous_id = []
        message.auto_comments = []
    return Merged(locale, marks, catalog)


def headers(text: str) -> dict[str, str]:
    """Return the header fields of a catalog."""
    found = _HEADER.search(text)
    lines = re.findall(r'"(.*?)(?:\\n)?"', found[1]) if found else []
    return {name.strip(): value.strip() for name, _colon, value in (line.partition(":") for line in lines)}


def header(locale: str, marks: dict[str, str]) -> str:
    """Return the header of a language's catalog; without dates, and without the names of programs."""
    spoken = Locale.parse(locale, sep="-")
    rule, categories = plural_rule(locale)
    fields = {
        "Project-Id-Version": "auth-portal",
        "Language": locale,
        "MIME-Version": "1.0",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Transfer-Encoding": "8bit",
        "Plural-Forms": rule,
        "X-Plural-Categories": " ".join(categories),
        "X-Own-Name": own_name(spoken),
        "X-Direction": spoken.text_direction,
        **marks,
    }
    lines = "".join(f'"{name}: {value}\\n"\n' for name, value in fields.items())
    return f'msgid ""\nmsgstr ""\n{lines}'


def own_name(locale: Locale) -> str:
    """Return what a language is called in itself, as it stands in a list: Français, isiZulu, isiXhosa."""
    name = locale.get_display_name() or str(locale)
    return f"isi{name[3:]}" if name[:3].lower() == "isi" else name[:1].upper() + name[1:]


def plural_rule(locale: str) -> tuple[str, list[str]]:
    """Return the rule of plurals for gettext, and the categories of the CLDR that its forms stand for."""
    rule = Locale.parse(locale, sep="-").plural_form
    # Numbers here are whole, and none is written with an exponent, which is what the operand e means.
    text = re.sub(r"\be\b", "0", to_gettext(rule)).removesuffix(";")
    return f"{text};", [name for name in CATEGORIES if name in rule.tags or name == "other"]


# --- Write


def po_text(one: Merged) -> str:
    """Return the file of a language's catalog."""
    return f"{header(one.locale, one.marks)}\n{_messages(one.catalog)}"


def pot_text(texts: Catalog) -> str:
    """Return the file of all texts, from which a catalog begins."""
    fields = '"Project-Id-Version: auth-portal\\n"\n"Content-Type: text/plain; charset=utf-8\\n"\n'
    return f'msgid ""\nmsgstr ""\n{fields}\n{_messages(texts)}'


def _messages(catalog: Catalog) -> str:
    written = BytesIO()
    write_po(written, catalog, width=118, omit_header=True, sort_output=True, include_lineno=False)
    return re.sub(r"\n+\Z", "\n", written.getvalue().decode())


def mo_bytes(one: Merged) -> bytes:
    """Return the compiled catalog, as gettext reads it: what is translated and not fuzzy."""
    found = {"": "".join(f"{name}: {value}\n" for name, value in headers(header(one.locale, one.marks)).items())}
    for message in one.catalog:
        forms = forms_of(message)
        if message.id and all(forms) and not message.fuzzy:
            found["\0".join(ids_of(message))] = "\0".join(forms)
    pairs = sorted((key.encode(), value.encode()) for key, value in found.items())
    keys, values = b"".join(key + b"\0" for key, _value in pairs), b"".join(value + b"\0" for _key, value in pairs)
    start = 7 * 4 + 16 * len(pairs)  # a head of seven numbers, then two tables with two numbers for each text
    tables, places = [b"", b""], [start, start + len(keys)]
    for pair in pairs:
        for side, text in enumerate(pair):
            tables[side] += struct.pack("<2I", len(text), places[side])
            places[side] += len(text) + 1
    head = struct.pack("<7I", 0x950412DE, 0, len(pairs), 7 * 4, 7 * 4 + 8 * len(pairs), 0, 0)
    return head + tables[0] + tables[1] + keys + values


def ids_of(message: Message) -> tuple[str, ...]:
    """Return the English of a text; of one with plurals both forms."""
    return message.id if isinstance(message.id, tuple) else (str(message.id),)


def forms_of(message: Message) -> tuple[str, ...]:
    """Return the translation of a text; of one with plurals every form."""
    return tuple(message.string or ()) if isinstance(message.id, tuple) else (str(message.string),)


# --- Check


def faults(one: Merged) -> list[str]:
    """Return what is wrong with a catalog of today's texts, a line for each fault.

    What is not translated yet is a fault only in one that is marked as complete.
    """
    categories, found = plural_rule(one.locale)[1], []
    for message in one.catalog:
        if not message.id:
            continue
        ids, forms = ids_of(message), forms_of(message)
        if message.fuzzy or not all(forms):
            if one.is_complete:
                found.append(f"{one.locale}: {'look again at' if message.fuzzy else 'not translated'}: {ids[0]!r}")
            continue
        if len(ids) > 1 and len(forms) != len(categories):
            found.append(f"{one.locale}: {len(forms)} plural forms, not {len(categories)}: {ids[0]!r}")
            continue
        for place, form in enumerate(forms):
            category = categories[place] if len(ids) > 1 else ""
            if why := _fault(ids, form, category):
                found.append(f"{one.locale}: {why}: {ids[0]!r}{f' ({category})' if category else ''}: {form!r}")
    return found


def _fault(ids: tuple[str, ...], form: str, category: str) -> str:
    """Return what a translation lost or added that is not words."""
    wanted, has = Counter(_PLACEHOLDER.findall(ids[-1])), Counter(_PLACEHOLDER.findall(form))
    numbers = Counter(dict.fromkeys(("%(num)s", "{n}"), 1))
    if has != wanted and not (category in OF_ONE_NUMBER and has - numbers == wanted - numbers and has <= wanted):
        return "other placeholders"
    if "%" in _PLACEHOLDER.sub("", form) and "%" not in _PLACEHOLDER.sub("", ids[-1]):
        return "a % that is no placeholder"
    if Counter(_TAG.findall(form)) != Counter(_TAG.findall(ids[-1])):
        return "other HTML"
    if ("<" in _TAG.sub("", form)) != ("<" in _TAG.sub("", ids[-1])):
        return "a < that is no tag"
    if (form[:1].isspace(), form[-1:].isspace()) != (ids[-1][:1].isspace(), ids[-1][-1:].isspace()):
        return "other spaces at the ends"
    return ""


def stale_files(folder: Path = FOLDER, root: Path = ROOT) -> list[Path]:
    """Return the files that ``make translations`` would change."""
    return [path for path, content in _files(folder, template(root)).items() if _content(path) != content]


def _files(folder: Path, texts: Catalog) -> dict[Path, bytes]:
    found = {folder / f"{DOMAIN}.pot": pot_text(texts).encode()}
    for locale in locales(folder):
        one = merged(folder, locale, texts)
        found[folder / one.path] = po_text(one).encode()
        found[(folder / one.path).with_suffix(".mo")] = mo_bytes(one)
    if folder == FOLDER:
        found[DOCUMENT] = _with_table(DOCUMENT.read_text(encoding="utf-8"), texts).encode()
    return found


def _with_table(text: str, texts: Catalog) -> str:
    """Return the document with the languages as they are now."""
    lines = [
        "| | language | read by a native speaker | |",
        "|---|---|---|---|",
        "| en | English | – | built in |",
    ]
    for locale in locales():
        one = merged(FOLDER, locale, texts)
        said = headers(header(locale, one.marks))
        native = "yes" if one.marks["X-Read-By-Native-Speaker"] == "yes" else "not yet"
        state = "complete" if one.is_complete else "not offered: it misses texts"
        lines.append(f"| {locale} | {said['X-Own-Name']} | {native} | {state} |")
    before, after = text.partition(TABLE[0])[0], text.partition(TABLE[1])[2]
    return f"{before}{TABLE[0]}\n" + "\n".join(lines) + f"\n{TABLE[1]}{after}"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def add_language(locale: str, folder: Path = FOLDER) -> None:
    """Make the folder of a language, with an empty catalog. Raise UnknownLocaleError if the CLDR does not have it."""
    Locale.parse(locale, sep="-")
    path = folder / locale.replace("-", "_") / "LC_MESSAGES" / f"{DOMAIN}.po"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(header(locale, dict.fromkeys(MARKS, "no")), encoding="utf-8")


def renew(folder: Path = FOLDER, root: Path = ROOT) -> list[str]:
    """Write every file again. Return the faults of the catalogs."""
    texts = template(root)
    for path, content in _files(folder, texts).items():
        path.write_bytes(content)
    return [fault for locale in locales(folder) for fault in faults(merged(folder, locale, texts))]


def main(new: list[str]) -> int:
    """Add the languages that are named, bring all files up to date, and say how much of each is translated."""
    try:
        for locale in new:
            add_language(locale)
    except (UnknownLocaleError, ValueError) as unknown:
        print(f"{unknown}. Name a language of the CLDR, such as zu or pt-BR.", file=sys.stderr)
        return 2
    found, texts = renew(), template()
    for locale in locales():
        one = merged(FOLDER, locale, texts)
        done = sum(1 for message in one.catalog if message.id and all(forms_of(message)) and not message.fuzzy)
        print(f"{locale}: {done} of {len(texts)} texts{', complete' if one.is_complete else ''}")
    print("\n".join(found), file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
