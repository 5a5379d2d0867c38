"""Compiles every page and message where the code is installed: its processes may not write there."""

from auth_portal.bootstrap import create_app
from auth_portal.services.delivery.texts import Texts
from auth_portal.settings import CompiledTemplates, delivered

pages = create_app().jinja_env
for name in pages.list_templates(extensions=["html"]):
    pages.get_template(name)
Texts("", delivered("templates"), CompiledTemplates("messages."))
