"""The API below /api/v1/: JSON for programs, by key and never by cookie.

``frame`` is what every route goes through, ``problems`` what every refusal looks like; the other modules are the
routes, one module for each kind of thing. ``openapi.json`` describes all of it.
"""
