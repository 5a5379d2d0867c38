"""What templates compile to is kept where Python keeps what code compiles to, and used for no other text."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

import pytest
from jinja2 import DictLoader, Environment
from jinja2.bccache import bc_magic

from auth_portal import settings
from auth_portal.settings import CompiledTemplates
from tests.programs import ROOT

NAME = "pages/one.html"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where Python would write what it compiles, and where it may."""
    monkeypatch.setattr(sys, "pycache_prefix", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    found = Path(cache_from_source(settings.__file__)).parent
    found.mkdir(parents=True)
    return found


def shown(text: str, prefix: str = "", **ways: str) -> str:
    """What a process that starts now shows of a template."""
    pages = Environment(loader=DictLoader({NAME: text}), bytecode_cache=CompiledTemplates(prefix), **ways)  # type: ignore[arg-type]
    return pages.get_template(NAME).render(x="a value")


def test_a_template_is_compiled_once_for_all_processes(folder: Path) -> None:
    assert shown("((x))", variable_start_string="((", variable_end_string="))") == "a value"
    assert [file.name for file in folder.iterdir()] == ["pages.one.html.jinja"]

    assert shown("((x))") == "a value", "compiled again: this environment would have left the brackets"
    assert shown("((x))", "messages.") == "((x))"


def test_another_text_is_compiled_again(folder: Path) -> None:
    assert shown("before {{ x }}") == "before a value"
    assert shown("after {{ x }}") == "after a value"
    assert shown("after {{ x }}") == "after a value"


def test_another_filter_of_ours_compiles_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiler runs a filter itself where it is applied to a constant."""
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "our_filters.py"
    for body, expected in (("text.upper()", "WORD"), ("text.title() + '!'", "Word!")):
        module.write_text(f"def loud(text):\n    return {body}\n")
        monkeypatch.delitem(sys.modules, "our_filters", raising=False)
        importlib.invalidate_caches()
        filters = importlib.import_module("our_filters")
        pages = Environment(loader=DictLoader({NAME: "{{ 'word' | loud }}"}), bytecode_cache=CompiledTemplates())
        pages.filters["loud"] = filters.loud
        assert pages.get_template(NAME).render() == expected
    monkeypatch.delitem(sys.modules, "our_filters")


@pytest.mark.parametrize("kind", ["damaged", "cut", "cut early", "nulls", "empty", "a folder"])
def test_a_file_that_cannot_be_read_is_as_none(folder: Path, kind: str) -> None:
    shown("{{ x }}")
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    if kind == "a folder":
        file.unlink()
        file.mkdir()
    else:
        early = len(bc_magic) + 9  # within what says which text it was made from
        files = {
            "damaged": whole[:-20] + bytes(20),
            "cut": whole[:-20],
            "cut early": whole[:early],
            "nulls": whole[:early] + bytes(len(whole) - early),
            "empty": b"",
        }
        file.write_bytes(files[kind])

    assert shown("{{ x }}") == "a value"


def test_nothing_is_written_where_python_may_not_write(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert shown("{{ x }}") == "a value"
    assert not list(folder.iterdir())

    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    folder.rmdir()
    assert shown("{{ x }}") == "a value"
    assert not folder.exists()


def test_no_other_account_may_write_to_it(folder: Path) -> None:
    """It is code; and the umask of a worker lets the group of its socket write."""
    before = os.umask(0)
    try:
        shown("{{ x }}")
    finally:
        os.umask(before)
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o644


def test_an_installation_compiles_every_page_and_message(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONPYCACHEPREFIX": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    subprocess.run([sys.executable, ROOT / "deploy/compile_templates.py"], env=environment, check=True)

    found = {file.name.removesuffix(".jinja") for file in tmp_path.rglob("*.jinja")}
    pages = {str(file.relative_to(ROOT / "templates")).replace("/", ".") for file in ROOT.glob("templates/**/*.html")}
    assert pages | {"messages.email.txt", "messages.notice.txt"} <= found
