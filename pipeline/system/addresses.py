"""Addresses of stores and servers as they may be printed: without what is secret in them.

An address is shown without its user, password, query and fragment, and only if it can be parsed without doubt. Errors
repeat addresses whole or in parts, so the secrets of the configured addresses are hidden wherever they occur in a text.
"""

import os
import re
from dataclasses import dataclass
from urllib.parse import quote, quote_plus, unquote, unquote_plus, urlsplit

VARIABLES = (
    *("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_BACKEND_STORE_URI"),
    *("PIPELINE_OPTUNA_STORAGE", "PIPELINE_UI"),
)
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
DATABASES = frozenset({"sqlite", "postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle"})
HIDDEN = "***"
UNREADABLE = "(an address that cannot be parsed and is not shown)"
ADDRESS = re.compile(r"(?:[A-Za-z][\w+.-]*)?://(?:.*@)?[^\s'\"<>]*")  # up to the last @: a password may hold anything
MARK = 0xE000  # the first of the characters that stand for addresses while a text's secrets are hidden
OPEN = frozenset({"host", "port", "user", "dbname", "sslmode", "charset", "driver", "mode", "uri"})  # keys of a query


@dataclass(frozen=True)
class Address:
    """An address in parts; place: host, port and path. secrets: what a text must not hold."""

    scheme: str
    has_user: bool
    place: str
    has_query: bool
    secrets: frozenset[str]

    def __str__(self) -> str:
        """The address as it may be shown."""
        user, query = f"{HIDDEN}@" if self.has_user else "", f"?{HIDDEN}" if self.has_query else ""
        return f"{self.scheme}://{user}{self.place}{query}"


def shown(text: object, *addresses: str) -> str:
    """Return a text as it may be printed or stored: without the secrets of addresses.

    Args:
        text: an address, or a message that may hold some.
        addresses: some that the text may repeat, besides the configured ones.
    """
    written, kept = str(text), list[str]()

    def keep(address: str) -> str:
        kept.append(masked(address))
        return chr(MARK + len(kept) - 1)

    given = {*addresses, *(os.environ.get(name, "") for name in VARIABLES)} - {""}
    for address in sorted(given, key=len, reverse=True):
        for form in {address, repr(address)[1:-1]}:
            written = written.replace(form, keep(address))
    hidden = {os.environ.get(name, "") for name in SECRETS}.union(*map(secrets, given))
    written = ADDRESS.sub(lambda found: keep(found[0]), written)
    for secret in sorted({form for one in hidden for form in forms(one)}, key=len, reverse=True):
        written = re.sub(bounded(secret), HIDDEN, written)
    for number in reversed(range(len(kept))):  # a later one may hold earlier ones
        written = written.replace(chr(MARK + number), kept[number])
    return written


def masked(address: str) -> str:
    """Return an address as it may be shown."""
    return address if is_plain(address) else str(parse(address) or UNREADABLE)


def place(address: str) -> str:
    """Return what an address names, the same for all users who reach it; the address itself if it cannot be parsed."""
    parsed = None if is_plain(address) else parse(address)
    return f"{parsed.scheme.partition('+')[0]}://{parsed.place}" if parsed else address


def is_plain(address: str) -> bool:
    """Tell whether an address is a file's, which holds nothing secret."""
    is_path = re.fullmatch("[^@:?#=]*", address) is not None
    return is_path or re.fullmatch("(sqlite|file):///(?!.*://)[^?#]*", address) is not None


def secrets(address: str) -> frozenset[str]:
    """Return what a text must not hold of an address: all of one that cannot be parsed."""
    if is_plain(address):
        return frozenset()
    parsed = parse(address)
    return parsed.secrets if parsed else pieces(address.partition("://")[2] or address)


def parse(address: str) -> Address | None:
    """Parse an address as the library does that would use it; None if that leaves doubt about what is secret."""
    scheme = address.partition("://")[0].partition("+")[0]
    try:
        parsed = of_database(address) if scheme in DATABASES else of_server(address)
    except ValueError:
        return None
    return parsed if parsed and not re.search("://|[@;=&\r\n\ue000-\uf8ff]", parsed.place) else None


def of_server(address: str) -> Address | None:
    """Parse a server's address as urllib does, which raises ValueError."""
    parts = urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    doubtful = re.search(r"\s", address) or "@" in parts.path + parts.query + parts.fragment or re.search("[;=&]", name)
    if doubtful or not parts.scheme or not host or parts.port == 0:  # a port that is no number raises
        return None
    secret = password if colon else name
    found = {user, secret, parts.fragment, *in_query(parts.query), *pieces(secret), *pieces(parts.fragment)}
    return Address(parts.scheme, bool(user), host + parts.path, bool(parts.query or parts.fragment), frozenset(found))


def of_database(address: str) -> Address | None:
    """Parse a database's address as SQLAlchemy does, which may raise ValueError."""
    from sqlalchemy import make_url  # noqa: PLC0415 - 0.3 s, and seldom needed
    from sqlalchemy.exc import ArgumentError  # noqa: PLC0415

    try:
        url = make_url(address)
    except ArgumentError:
        return None
    # SQLAlchemy takes srv:5432/db?password=a@b for a user, a password and a host.
    looks_like_host = re.match(r"\d*(/.*\?|#)", str(url.password)) or re.search(r"[;=#&]", url.username or "")
    if looks_like_host or (url.username is None and "@" in address) or "#" in (url.host or ""):
        return None
    host, secret = url.host or "", str(url.username or "" if url.password is None else url.password)
    host = f"[{host}]" if ":" in host else host
    port = "" if url.port is None else f":{url.port}"
    path, _, rest = ("" if url.database is None else f"/{url.database}").partition("#")
    found = frozenset({secret, rest, *pieces(secret), *pieces(rest), *in_query(address.partition("?")[2])})
    return Address(url.drivername, url.username is not None, host + port + path, bool(url.query or rest), found)


def in_query(query: str) -> set[str]:
    """List the values of a query that may be secret, and their pieces; a key without a value may be part of one."""
    found = set[str]()
    for pair in query.split("&"):
        key, _, value = pair.partition("=")
        if key not in OPEN or re.search("[;=]", value):
            found |= {value or key, *pieces(value or key)}
    return found


def pieces(secret: str) -> frozenset[str]:
    """Split a secret where a library that misunderstands its address may do so, and print a part."""
    return frozenset(re.findall(r"\w+", f"{secret} {unquote(secret)}"))


def forms(secret: str) -> set[str]:
    """List the ways in which a message may write a secret."""
    coded = {quote(secret), quote(secret, safe=""), quote_plus(secret), unquote(secret), unquote_plus(secret)}
    return {secret, *coded, repr(secret)[1:-1]} - {"", HIDDEN}


def bounded(secret: str) -> str:
    """Return a pattern that finds a secret: a short one only where it is not part of a word."""
    if len(secret) >= 6:
        return re.escape(secret)
    before, after = (r"(?<!\w)" if secret[0].isalnum() else "", r"(?!\w)" if secret[-1].isalnum() else "")
    return f"{before}{re.escape(secret)}{after}"
