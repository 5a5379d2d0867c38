"""Importing customers from a file: sending it, naming its columns, looking at what it would change, and back again."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.customer_fields import FIELDS
from auth_portal.services.imports.customers_csv import RowFault
from auth_portal.services.imports.files import LARGEST_FILE
from auth_portal.services.imports.imports import PAGE, Import, guesses
from auth_portal.services.imports.telling import LONGEST
from auth_portal.services.stories.audit_trail import defused
from auth_portal.web.admin.guard import EVERYONE, WRITERS, done, form_text, me, render, route, second_factor_fault
from auth_portal.web.context import admin_token, services
from auth_portal.web.edge import LARGEST_REQUEST, LargeRequest, large_requests

PATH = "/admin/imports"
FAULTS_SHOWN = 20
LOOKS = ((60, 2), (150, 10))  # up to this look the page asks again after so many seconds; then somebody has to


@route("/imports", allow=EVERYONE)
def imports() -> Response:
    """The form for a file, and the imports there were."""
    return _list_page()


def _list_page(fault: str = "", *, status: int = 200) -> Response:
    before = request.args.get("before", "")
    found = services().imports.page(before)
    older = f"{PATH}?before={found[PAGE - 1].id}" if len(found) > PAGE else ""
    return render(
        "admin/imports/list.html", status=status, imports=found[:PAGE], older=older, newest=PATH if before else "",
        fault=fault, most_megabytes=LARGEST_FILE // 2**20,
    )  # fmt: skip


@route("/imports", allow=WRITERS, methods=("POST",))
def upload() -> BaseResponse:
    """Takes in a file; what its columns are is asked next."""
    file = request.files.get("file")
    if file is None or not file.filename:
        return _list_page(error_text("import_no_file"), status=422)
    if file.stream.seek(0, io.SEEK_END) > LARGEST_FILE:
        return _list_page(error_text("import_too_large"), status=422)
    file.stream.seek(0)
    try:
        import_id = services().imports.receive(file.stream, file.filename, admin_id=me().admin_id)
    except Problem as problem:
        return _list_page(error_text(problem.code), status=problem.status)
    return done(f"{PATH}/{import_id}", _("The file is here, and nobody was changed yet. Say what its columns are."))


def _may_upload() -> bool:
    """Whether this browser may send a whole file; asked before anything of it is read."""
    found = services().admin_sessions.signed_in(admin_token())
    return found is not None and found.role in WRITERS


large_requests["admin.imports_upload"] = LargeRequest(LARGEST_FILE + LARGEST_REQUEST, _may_upload)


@route("/imports/<import_id>", allow=EVERYONE)
def one(import_id: str) -> Response:
    """How an import stands, and what can be done with it; while it is at work the page asks again by itself."""
    found = services().imports.get(import_id)
    looked = max(0, request.args.get("looked", 0, type=int))
    wait = next((seconds for most, seconds in LOOKS if looked < most), 0) if found.is_at_work else 0
    response = _page(found, has_to_look=found.is_at_work and not wait)
    if wait:
        response.headers["Refresh"] = f"{wait}; url={PATH}/{import_id}?looked={looked + 1}"
    return response


def _page(
    found: Import, faults: dict[str, str] | None = None, *, columns: list[str] | None = None, status: int = 200,
    has_to_look: bool = False,
) -> Response:  # fmt: skip
    service = services().imports
    header = service.header(found.id) if found.may_be_mapped else []
    return render(
        "admin/imports/import.html", status=status, found=found, header=header, fields=FIELDS,
        columns=columns or list(found.columns) or guesses(header), faults=faults or {}, has_to_look=has_to_look,
        rows=service.faults(found.id, FAULTS_SHOWN), may_undo=service.may_undo(found),
        in_the_way=service.in_the_way(found), ways=service.ways(found), most_days=LONGEST.days, form=request.form,
    )  # fmt: skip


@route("/imports/<import_id>/columns", allow=WRITERS, methods=("POST",))
def name_columns(import_id: str) -> BaseResponse:
    """Says what the file's columns are; then all of it is checked and nobody changed."""
    service = services().imports
    header = service.header(import_id)
    columns = [form_text(f"column-{position}") for position in range(len(header))]
    if faults := service.name_columns(import_id, columns):
        return _page(service.get(import_id), faults, columns=columns, status=422)
    return done(f"{PATH}/{import_id}", _("The file is being checked. Nobody is changed by that."))


@route("/imports/<import_id>/start", allow=WRITERS, methods=("POST",))
def start(import_id: str) -> BaseResponse:
    """Has it done, for whoever shows the second factor: a file may change where everybody's codes go."""
    service = services().imports
    if fault := second_factor_fault():
        return _page(service.get(import_id), {"start_factor": fault}, status=422)
    try:
        service.start(
            import_id, is_partial=form_text("partial") == "1", is_telling=form_text("notify") == "1",
            admin_id=me().admin_id,
        )  # fmt: skip
    except Problem as problem:
        return _page(service.get(import_id), {"start": error_text(problem.code)}, status=problem.status)
    return done(f"{PATH}/{import_id}", _("The import has begun. You may leave this page, it goes on."))


@route("/imports/<import_id>/cancel", allow=WRITERS, methods=("POST",))
def cancel(import_id: str) -> BaseResponse:
    """Gives it up while nobody is changed."""
    service = services().imports
    try:
        service.cancel(import_id, admin_id=me().admin_id)
    except Problem as problem:
        return _page(service.get(import_id), {"cancel": error_text(problem.code)}, status=problem.status)
    return done(PATH, _("The import is cancelled. Nobody was changed, and the file is removed."))


@route("/imports/<import_id>/undo", allow=WRITERS, methods=("POST",))
def undo(import_id: str) -> BaseResponse:
    """Has what the last import changed put back, all of it or nothing."""
    service = services().imports
    if fault := second_factor_fault():
        return _page(service.get(import_id), {"undo_factor": fault}, status=422)
    try:
        service.undo(import_id, admin_id=me().admin_id)
    except Problem as problem:
        return _page(service.get(import_id), {"undo": error_text(problem.code)}, status=problem.status)
    return done(f"{PATH}/{import_id}", _("The undo has begun. You may leave this page, it goes on."))


@route("/imports/<import_id>/faults.csv", allow=EVERYONE)
def faults_csv(import_id: str) -> Response:
    """Every row that cannot be imported, with its column and the reason."""
    service = services().imports
    service.get(import_id)
    response = Response(_as_csv(service.all_faults(import_id)), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="import-{import_id[:12]}-faults.csv"'
    return response


def _as_csv(faults: Iterable[RowFault]) -> Iterator[str]:
    yield "row,column,reason\r\n"
    for fault in faults:
        text = io.StringIO()
        csv.writer(text).writerow([fault.row or "", defused(fault.column), defused(fault.reason)])
        yield text.getvalue()
