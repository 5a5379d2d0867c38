"""What gunicorn, the server of the portal, always reads when it is started in this folder."""

from gunicorn.workers import SUPPORTED_WORKERS

# Headers with an underscore in their name are dropped: in WSGI they would replace those of the proxy. No exceptions,
# although gunicorn makes one for SCRIPT_NAME and PATH_INFO, which a client could send through a proxy on this machine.
header_map = "drop"
forwarder_headers = ""
# Threads as always, but no slow client holds one. Under the usual name, so that no command line can miss it.
SUPPORTED_WORKERS["gthread"] = "auth_portal.web.server.PortalWorker"
worker_class = "gthread"
threads = 4
keepalive = 5  # seconds
control_socket_disable = True  # it would be in the home folder of the user that serves
