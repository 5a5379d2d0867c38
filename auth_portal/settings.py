"""Settings: read once from the environment, typed, frozen. The only module that reads the environment.

Here is also what the code knows of its own delivery: its version, and where the files are that come with it.

Every ``PORTAL_NAME`` may also be given as ``PORTAL_NAME_FILE`` (a file that contains the value). An unknown name and an
invalid value are faults; all faults are listed at once. Nothing is generated here: without keys the portal does not
start.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from hashlib import sha256
from importlib.util import cache_from_source
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

import idna
import jinja2
from jinja2 import Environment
from jinja2.bccache import Bucket, BytecodeCache
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from auth_portal.errors import Misconfigured

VERSION = "0.2.0.dev0"  # the only place: the wheel, the command, /healthz, metrics and pages take it from here
PREFIX = "PORTAL_"
KEYS_FILE = "secret_keys"
MINIMUM_KEY_LENGTH = 32  # characters; `auth-portal init` writes 43 (256 bits in base64)
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:,/?#]+)(?::(\d{1,5}))?")
_URL = re.compile(r"(?P<scheme>[^:/?#]+)://(?P<places>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?")
LONGEST_SOCKET = 107  # bytes of its path, on Linux
CONNECTIONS = 20  # of a process to PostgreSQL, at most
LAST_PORT = 2**16 - 1
EVENT_THREADS = 4  # that post events to programs: no one waits for them
SYSLOG_PORT = 6514  # over TLS (RFC 5425)
LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def delivered(folder: str) -> Path:
    """Return a folder that is delivered with the code, such as ``templates``.

    In a wheel it is inside the package, in the project next to it (see ``force-include`` in pyproject.toml).
    """
    package = Path(__file__).resolve().parent
    inside = package / folder
    return inside if inside.is_dir() else package.parent / folder


class CompiledTemplates(BytecodeCache):
    """Keeps what templates compile to where Python keeps what this module compiles to, if Python may write there.

    A template is compiled again where its text, one of our filters, this release, Jinja or Python is another one. To
    compile the pages of customers takes 0.3 s of CPU, to load them 0.03. ``prefix`` tells the templates of two
    environments apart.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._folder = Path(cache_from_source(__file__)).parent
        self._filters = ""

    def get_bucket(self, environment: Environment, name: str, filename: str | None, source: str) -> Bucket:
        """Return the place of a template made with the filters of today: the compiler runs those of constants."""
        if not self._filters:
            names = {str(getattr(found, "__module__", "")) for found in environment.filters.values()}
            modules = [sys.modules.get(name) for name in sorted(names) if not name.startswith("jinja2.")]
            files = [Path(getattr(module, "__file__", None) or "") for module in modules]
            self._filters = sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()
        return super().get_bucket(environment, name, filename, f"{self._filters} {source}")

    def get_cache_key(self, name: str, filename: str | os.PathLike[str] | None = None) -> str:
        """Return the name of a template's file, which is the same wherever the portal is installed."""
        return f"{self._prefix}{name.replace('/', '.')}.jinja"

    def get_source_checksum(self, source: str) -> str:
        """Return what a file must have been made from."""
        return sha256(f"{VERSION} {jinja2.__version__} {source}".encode()).hexdigest()

    def load_bytecode(self, bucket: Bucket) -> None:
        """Load a template, if its file is there, whole, and was made from the same text."""
        # A power cut can leave a part of a file, or nulls in it: pickle raises almost anything then.
        with suppress(Exception), (self._folder / bucket.key).open("rb") as file:
            bucket.load_bytecode(file)

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Write a template's file."""
        if not sys.dont_write_bytecode:
            making = self._folder / f"{bucket.key}.{os.getpid()}.{threading.get_ident()}"
            with suppress(OSError):
                making.touch(0o644)  # gunicorn's umask lets nginx's group write to a socket: not to code
                making.write_bytes(bucket.bytecode_to_string())
                making.replace(self._folder / bucket.key)


def _origin(value: object) -> object:
    text = str(value).strip()
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an origin such as https://verify.example.com")
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username:
        raise ValueError("must be an origin alone, without a path, query or user")
    netloc = host_form(parts.netloc, 443 if parts.scheme == "https" else 80)
    if netloc is None:
        raise ValueError("must name a host, perhaps with a port, such as https://verify.example.com")
    return f"{parts.scheme}://{netloc}"


def host_form(text: str, default_port: int) -> str | None:
    """Return a host, perhaps with a port, in the one form that browsers send; None if it cannot be one.

    That is in small letters, an international name in Punycode (RFC 5891), without a dot at its end, and without the
    port that is the scheme's own.
    """
    found = _HOST.fullmatch(text.strip().removesuffix(":"))
    if found is None or (found[2] is not None and not 0 < int(found[2]) <= LAST_PORT):
        return None
    host = found[1]
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode()
        except idna.IDNAError:
            return None
    host = host.lower().removesuffix(".")
    if host.startswith("["):
        try:
            host = f"[{ipaddress.IPv6Address(host[1:-1]).compressed}]"
        except ValueError:
            return None
    is_name = host.startswith("[") or re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", host)
    port = int(found[2] or default_port)
    return None if not is_name else host if port == default_port else f"{host}:{port}"


def _sandbox(value: object) -> object:
    known = {"0": "off", "off": "off", "": "off", "1": "on", "on": "on", "public": "public"}
    try:
        return known[str(value).strip().lower()]
    except KeyError:
        raise ValueError("must be 0, 1 or public") from None


def _database_url(value: object) -> object:
    """Write libpq's URL of several hosts (``h1:5432,[::1]:5433``) as SQLAlchemy reads it."""
    text = str(value).strip()
    parts = _URL.fullmatch(text)  # newer versions of urlsplit refuse several hosts of which one is in brackets
    user, at, places = parts["places"].rpartition("@") if parts else ("", "", "")
    if parts is None or "," not in places:
        try:
            _ = make_url(text) if text else None
        except ArgumentError:
            raise ValueError("must begin with sqlite:/// or postgresql://") from None
        try:
            _ = urlsplit(text).port
        except ValueError:  # its own words have what stands there, which may be a part of the password
            raise ValueError(
                "has no number for its port. Write a /, # or ? of the password as %2F, %23 or %3F"
            ) from None
        return text
    found = [_HOST.fullmatch(place) for place in places.split(",")]
    if not all(found):
        raise ValueError("must name each host as host or host:port, separated by commas")
    hosts = ",".join(match[1].strip("[]") for match in found if match)
    ports = ",".join(match[2] or "5432" for match in found if match)
    query = f"{parts['query']}&" if parts["query"] else ""
    return f"{parts['scheme']}://{user}{at}{parts['path'] or '/'}?{query}host={hosts}&port={ports}"


def _header(value: object) -> object:
    """Write the name of a header as the settings do, however it was written."""
    known = ("X-Forwarded-For", "Forwarded", "X-Request-ID", "traceparent")
    return next((name for name in known if name.lower() == str(value).strip().lower()), value)


def _bind(value: object) -> object:
    text = str(value).strip()
    if text.startswith("unix:"):
        if not 0 < len(os.fsencode(text.removeprefix("unix:"))) <= LONGEST_SOCKET:
            raise ValueError(f"must name the path of a socket, of at most {LONGEST_SOCKET} bytes, after unix:")
        return re.sub("^unix://+", "unix:/", text)
    found = _HOST.fullmatch(text)
    if found is None or not found[2] or not 0 < int(found[2]) <= LAST_PORT:
        raise ValueError("must be host:port, or unix: and the path of a socket")
    return f"{found[1]}:{int(found[2])}"  # in one spelling, by which addresses are compared


def _syslog(value: object) -> object:
    text = str(value).strip()
    found = host_form(text, SYSLOG_PORT) if text else ""
    if found is None:
        raise ValueError("must be the host of a receiver of syslog over TLS, or host:port")
    return found if not found or re.search(r":\d+$", found) else f"{found}:{SYSLOG_PORT}"


def _octal(value: object) -> object:
    text = str(value).strip()
    if not re.fullmatch(r"0?[0-7]{3}", text):
        raise ValueError("must be three octal digits, such as 660")
    return int(text, 8)


def _comma_separated(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _host_and_port(value: object) -> object:
    targets = []
    for part in _comma_separated(value):  # type: ignore[attr-defined]
        host, _, port = str(part).rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"{part!r} must be host:port")
        targets.append((host.strip("[]").lower(), int(port)))
    return frozenset(targets)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _networks(value: object) -> object:
    found: list[Network] = []
    for part in _comma_separated(value):  # type: ignore[attr-defined]
        try:
            network = ipaddress.ip_network(str(part))
        except ValueError:
            raise ValueError(f"{part!r} must be a network such as 10.20.0.0/16") from None
        if network.is_global:
            raise ValueError(f"{part!r} has public addresses, which need no setting")
        found.append(network)
    return tuple(found)


class Settings(BaseModel):
    """All that the operator decides. Times and limits of the product belong to the configuration page."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: Path = Path("instance")
    bind: Annotated[str, BeforeValidator(_bind)] = "127.0.0.1:8000"
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    threads: Annotated[int, Field(ge=1, le=256)] = 4
    socket_mode: Annotated[int, BeforeValidator(_octal)] = 0o660
    database_url: Annotated[str, BeforeValidator(_database_url)] = ""
    secret_keys: Annotated[tuple[str, ...], BeforeValidator(_comma_separated)] = ()
    public_url: Annotated[str, BeforeValidator(_origin)] = "http://127.0.0.1:8000"
    trusted_proxies: Annotated[int | None, Field(ge=0, le=10)] = None
    proxy_header: Annotated[Literal["X-Forwarded-For", "Forwarded"], BeforeValidator(_header)] = "X-Forwarded-For"
    sandbox: Annotated[Literal["off", "on", "public"], BeforeValidator(_sandbox)] = "off"
    dispatch: Literal["inline", "off"] = "inline"
    callback_threads: Annotated[int, Field(ge=2, le=256)] = 64
    message_threads: Annotated[int, Field(ge=2, le=256)] = 16
    poll_seconds: Annotated[float, Field(ge=0.02, le=2)] = 0.1
    idle_poll_seconds: Annotated[float, Field(ge=0.02, le=2)] = 0.5
    database_connections: Annotated[int, Field(ge=4, le=200)] = CONNECTIONS
    drain_seconds: Annotated[int, Field(ge=0, le=300)] = 0
    outbound_proxy: str = ""
    ca_bundle: Path | None = None
    private_targets: Annotated[frozenset[tuple[str, int]], BeforeValidator(_host_and_port)] = frozenset()
    private_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = ()
    allow_private_callbacks: bool = False
    require_macs: bool = False
    metrics_token: str = ""
    metrics_bind: Annotated[str, BeforeValidator(_bind)] = ""
    audit_syslog: Annotated[str, BeforeValidator(_syslog)] = ""
    audit_syslog_cert: Path | None = None
    log_level: Literal["info", "warning", "error"] = "info"
    request_id_header: Annotated[Literal["", "X-Request-ID", "traceparent"], BeforeValidator(_header)] = ""

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.is_https and self.trusted_proxies is None:
            raise ValueError(
                "PORTAL_TRUSTED_PROXIES must be set if PORTAL_PUBLIC_URL is https: the number of proxies in front "
                "(1 for nginx alone, 0 for none)"
            )
        if self.is_https and self.sandbox == "on":
            raise ValueError(
                "PORTAL_SANDBOX=1 is refused with an https PORTAL_PUBLIC_URL: anyone could read the test inbox; "
                "set it to 0, or to public if that is what you want"
            )
        if self.bind.startswith("unix:") and not self.trusted_proxies:
            raise ValueError(
                "PORTAL_TRUSTED_PROXIES must be 1 or more if PORTAL_BIND is a unix socket: only the proxy in front "
                "knows the client's address"
            )
        if self.metrics_bind and self.metrics_bind.rpartition(":")[2] == self.bind.rpartition(":")[2]:
            raise ValueError("PORTAL_METRICS_BIND must have another port than PORTAL_BIND")
        if self.request_id_header and not self.trusted_proxies:
            raise ValueError(
                "PORTAL_TRUSTED_PROXIES must be 1 or more if PORTAL_REQUEST_ID_HEADER is set: a client could choose "
                "the ids of its requests"
            )
        for name, path in (("CA_BUNDLE", self.ca_bundle), ("AUDIT_SYSLOG_CERT", self.audit_syslog_cert)):
            if path is not None and not path.is_file():
                raise ValueError(f"{PREFIX}{name}: there is no file {path}")
        return self

    @property
    def binds(self) -> list[str]:
        """Return all addresses at which ``auth-portal serve`` listens."""
        return [self.bind, *([self.metrics_bind] if self.metrics_bind else [])]

    @cached_property
    def is_https(self) -> bool:
        """Report whether people reach the portal over TLS, which turns on Secure and __Host- cookies and HSTS."""
        return self.public_url.startswith("https://")

    @cached_property
    def host(self) -> str:
        """Return the host of the public URL, without its port, an international name in Punycode."""
        return urlsplit(self.public_url).hostname or ""

    @cached_property
    def shown_host(self) -> str:
        """Return the host as people read it."""
        try:
            return idna.decode(self.host) if "xn--" in self.host else self.host
        except idna.IDNAError:
            return self.host

    @cached_property
    def netloc(self) -> str:
        """Return host and port of the public URL, as a browser sends them in Host."""
        return urlsplit(self.public_url).netloc

    @property
    def delivery_threads(self) -> dict[str, int]:
        """Return how many threads of a dispatcher send each kind of delivery at the same time."""
        return {"callback": self.callback_threads, "message": self.message_threads, "webhook": EVENT_THREADS}

    @property
    def is_loopback(self) -> bool:
        """Report whether the public URL can be reached from this machine only."""
        return self.host in LOOPBACK_NAMES

    @property
    def has_sandbox(self) -> bool:
        """Report whether the stand-in for Flow is served."""
        return self.sandbox != "off"

    @property
    def sandbox_url(self) -> str:
        """Return the URL at which the portal reaches the sandbox, empty while it is off."""
        return f"{self.public_url}/sandbox" if self.has_sandbox else ""

    @property
    def database(self) -> str:
        """Return the URL of the database; SQLite in the instance folder unless another one is set."""
        return self.database_url or f"sqlite:///{(self.instance / 'portal.db').absolute()}"

    def master_keys(self) -> tuple[str, ...]:
        """Return the keys that wrap the data keys, the first one in use.

        Raise Misconfigured if there are none, or if one is too short to be a key.
        """
        keys = self.secret_keys
        path = self.instance / KEYS_FILE
        if not keys:
            try:
                keys = tuple(part.strip() for part in path.read_text().replace("\n", ",").split(",") if part.strip())
            except FileNotFoundError:
                raise Misconfigured(
                    f"There are no keys: {path} is missing and PORTAL_SECRET_KEYS is not set. "
                    "Run `auth-portal init`, or put back the file that belongs to this database."
                ) from None
            except OSError as error:
                raise Misconfigured(f"The key file {path} cannot be read: {error.strerror}.") from None
        if not keys or any(len(key) < MINIMUM_KEY_LENGTH for key in keys):
            raise Misconfigured(
                f"PORTAL_SECRET_KEYS (or {path}) must contain keys of at least {MINIMUM_KEY_LENGTH} characters, "
                "separated by commas."
            )
        return keys


_WORDS = {  # by the kind of the fault
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be 0 or 1",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
}


def read_settings(environment: Mapping[str, str] | None = None, options: Mapping[str, str] | None = None) -> Settings:
    """Return the settings from the environment (the process's own unless another is given).

    ``options`` are settings of a command line, such as ``bind``, which replace those of the environment.

    Raise Misconfigured with one line for each fault: unknown names, unreadable files, invalid values.
    """
    environment = {
        **(os.environ if environment is None else environment),
        **{f"{PREFIX}{name.upper()}": text for name, text in (options or {}).items()},
    }
    faults: list[str] = []
    values: dict[str, str] = {}
    for name in sorted(key for key in environment if key.startswith(PREFIX)):
        field, text = _one_setting(name, environment, faults)
        if field:
            values[field] = text
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        for found in error.errors():
            setting = f"{PREFIX}{str(found['loc'][0]).upper()}: " if found["loc"] else ""
            known = _WORDS.get(found["type"], "").format(**found.get("ctx", {}))
            faults.append(f"{setting}{known or found['msg'].removeprefix('Value error, ')}.")
    if faults:
        raise Misconfigured(*faults)
    return settings


def _one_setting(name: str, environment: Mapping[str, str], faults: list[str]) -> tuple[str, str]:
    field = name.removeprefix(PREFIX).lower()
    if field in Settings.model_fields:
        return field, environment[name]
    from_file = field.removesuffix("_file")
    if from_file == field or from_file not in Settings.model_fields:
        faults.append(f"{name} is not a setting of Auth Portal. Known: {', '.join(known_names())}.")
        return "", ""
    if PREFIX + from_file.upper() in environment:
        faults.append(f"{name} and {name.removesuffix('_FILE')} are both set; keep one.")
        return "", ""
    try:
        text = Path(environment[name]).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        faults.append(f"{name}: {environment[name]} cannot be read: {reason}.")
        return "", ""
    if not text:  # as of a secret that was never made
        faults.append(f"{name}: {environment[name]} is empty.")
        return "", ""
    return from_file, text


def environment_of_programs(**more: str) -> dict[str, str]:
    """Return the process's environment without the portal's own settings, for a program that it starts."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)} | more


def known_names() -> list[str]:
    """Return the names of all settings, as they are written in the environment."""
    return [PREFIX + field.upper() for field in Settings.model_fields]
