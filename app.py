"""The WSGI entry: ``app:app``."""

import gc

gc.disable()  # while modules are loaded: it would look at all of them time and again, and none is ever garbage

from auth_portal.bootstrap import create_app, serve  # noqa: E402

app = create_app()
serve(app)
gc.freeze()  # nor later: a full collection looked at all of them, 0.1 s in which no thread of a worker ran
gc.enable()
