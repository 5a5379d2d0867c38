"""What gunicorn always reads when it is started in this folder: the settings that ``auth-portal serve`` has, too."""

import os

from auth_portal.web.server import gunicorn_settings

_DRAIN = os.environ.get("PORTAL_DRAIN_SECONDS", "")
globals().update(gunicorn_settings(int(_DRAIN) if _DRAIN.isdecimal() else 0))
