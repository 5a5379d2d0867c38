"""Imports of customers: sending a file, naming its columns, seeing what it would change, starting and undoing it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from flask import Response, request
from werkzeug.wrappers import Response as BaseResponse

from auth_portal.errors import Problem
from auth_portal.i18n import error_text
from auth_portal.i18n import gettext as _
from auth_portal.services.directory.fields import FIELDS
from auth_portal.services.history.lists import defused
from auth_portal.services.imports import LARGEST_FILE
from auth_portal.services.imports.imports import PAGE, Import
from auth_portal.services.imports.notify import LONGEST
from auth_portal.web.admin.frame import (
    EVERYONE,
    WRITERS,
    done,
    form_text,
    me,
    render,
    route,
    second_factor_fault,
    sender,
)
from auth_portal.web.context import services
from auth_portal.web.edge import LARGEST_REQUEST, LargeRequest, large_requests

PATH = "/admin/imports"
FAULTS_LOOKED_AT = 1000  # of an import, for its causes; the file with all of them has the others
LOOKS = ((60, 2), (150, 10))  # (looks, seconds before the page reloads itself); after the last, the admin does


@route("/imports", allow=EVERYONE)
def imports() -> Response:
    """Show the form for a file, and earlier imports."""
    return _list_page()


def _list_page(fault: str = "", *, status: int = 200) -> Response:
    before = request.args.get("before", "")
    found = services().imports.page(before)
    older = f"{PATH}?before={found[PAGE - 1].id}" if len(found) > PAGE else ""
    return render(
        "admin/imports/list.html",
        status=status,
        imports=found[:PAGE],
        older=older,
        newest=PATH if before else "",
        fault=fault,
        sheet=request.form.get("sheet", ""),
        region=services().journeys.current().portal.default_region,
        most_megabytes=LARGEST_FILE // 2**20,
    )


@route("/imports", allow=WRITERS, methods=("POST",))
def upload() -> BaseResponse:
    """Receive a file; its columns are asked for next."""
    if not services().journeys.current().portal.default_region:
        return _list_page(error_text("import_no_region"), status=422)
    file = request.files.get("file")
    if file is None or not file.filename:
        return _list_page(error_text("import_no_file"), status=422)
    if file.stream.seek(0, io.SEEK_END) > LARGEST_FILE:
        return _list_page(error_text("import_too_large"), status=422)
    file.stream.seek(0)
    try:
        import_id = services().imports.receive(
            file.stream, file.filename, admin_id=me().admin_id, sheet=form_text("sheet")
        )
    except Problem as problem:
        return _list_page(error_text(problem.code, params=problem.params), status=problem.status)
    text = _("The file was uploaded. No customer has changed yet. Check what each column means.")
    return done(f"{PATH}/{import_id}", text)


def _may_upload() -> bool:
    """Report whether this browser may send a whole file, before any of it is read."""
    found = sender()
    return found is not None and found.role in WRITERS


large_requests["admin.imports_upload"] = LargeRequest(LARGEST_FILE + LARGEST_REQUEST, _may_upload)


@route("/imports/<import_id>", allow=EVERYONE)
def one(import_id: str) -> Response:
    """Show the state of an import, and what can be done; while it is at work the page reloads itself."""
    found = services().imports.get(import_id)
    looked = max(0, request.args.get("looked", 0, type=int))
    wait = next((seconds for most, seconds in LOOKS if looked < most), 0) if found.is_at_work else 0
    response = _page(found, has_to_look=found.is_at_work and not wait)
    if wait:
        response.headers["Refresh"] = f"{wait}; url={PATH}/{import_id}?looked={looked + 1}"
    return response


def _page(
    found: Import,
    faults: dict[str, str] | None = None,
    *,
    columns: list[str] | None = None,
    status: int = 200,
    has_to_look: bool = False,
) -> Response:
    service = services().imports
    header = service.header(found.id) if found.may_be_mapped else []
    columns = columns or list(found.columns) or service.guesses(header)
    is_mine = found.admin_id == me().admin_id
    return render(
        "admin/imports/import.html",
        status=status,
        found=found,
        header=header,
        fields=FIELDS,
        columns=columns,
        samples=service.samples(found.id, columns) if header and is_mine else [],
        faults=faults or {},
        has_to_look=has_to_look,
        causes=service.fault_causes(found.id, FAULTS_LOOKED_AT),
        has_all_faults=found.fault_count <= FAULTS_LOOKED_AT,
        may_undo=service.may_undo(found),
        in_the_way=service.blocking_undo(found),
        routes=service.routes(found),
        most_days=LONGEST.days,
        form=request.form,
    )


@route("/imports/<import_id>/columns", allow=WRITERS, methods=("POST",))
def name_columns(import_id: str) -> BaseResponse:
    """Name the file's columns; then all of it is checked and no customer changed."""
    service = services().imports
    header = service.header(import_id)
    columns = [form_text(f"column-{position}") for position in range(len(header))]
    if faults := service.name_columns(import_id, columns):
        return _page(service.get(import_id), faults, columns=columns, status=422)
    return done(f"{PATH}/{import_id}", _("The file is being checked. This doesn't change any customer."))


@route("/imports/<import_id>/start", allow=WRITERS, methods=("POST",))
def start(import_id: str) -> BaseResponse:
    """Start an import after the second factor: a file may change where the codes of all customers go."""
    service = services().imports
    if fault := second_factor_fault():
        return _page(service.get(import_id), {"start_factor": fault}, status=422)
    try:
        service.start(
            import_id,
            is_partial=form_text("partial") == "1",
            is_notifying=form_text("notify") == "1",
            admin_id=me().admin_id,
        )
    except Problem as problem:
        return _page(service.get(import_id), {"start": error_text(problem.code)}, status=problem.status)
    return done(f"{PATH}/{import_id}", _("The import has started. You can leave this page."))


@route("/imports/<import_id>/cancel", allow=WRITERS, methods=("POST",))
def cancel(import_id: str) -> BaseResponse:
    """Cancel an import before it changes any customer."""
    service = services().imports
    try:
        service.cancel(import_id, admin_id=me().admin_id)
    except Problem as problem:
        return _page(service.get(import_id), {"cancel": error_text(problem.code)}, status=problem.status)
    return done(PATH, _("The import was cancelled. No customer was changed, and the file was deleted."))


@route("/imports/<import_id>/undo", allow=WRITERS, methods=("POST",))
def undo(import_id: str) -> BaseResponse:
    """Undo the last import, all of it or nothing."""
    service = services().imports
    if fault := second_factor_fault():
        return _page(service.get(import_id), {"undo_factor": fault}, status=422)
    try:
        service.undo(import_id, admin_id=me().admin_id)
    except Problem as problem:
        return _page(service.get(import_id), {"undo": error_text(problem.code)}, status=problem.status)
    return done(f"{PATH}/{import_id}", _("The undo has started. You can leave this page."))


@route("/imports/<import_id>/faults.csv", allow=EVERYONE)
def faults_csv(import_id: str) -> Response:
    """Send every row that cannot be imported, with its column and the reason."""
    service = services().imports
    service.get(import_id)
    faults = service.all_faults(import_id)

    def lines() -> Iterator[str]:
        yield "row,column,reason\r\n"
        for fault in faults:
            text = io.StringIO()
            csv.writer(text).writerow([fault.row or "", defused(fault.column), defused(fault.reason)])
            yield text.getvalue()

    response = Response(lines(), mimetype="text/csv")
    response.headers["Content-Disposition"] = f'attachment; filename="import-{import_id[:12]}-faults.csv"'
    return response
