"""The WSGI entry: ``app:app``."""

from auth_portal.bootstrap import create_app, serve

app = create_app()
serve(app)
