"""No secret of an address is shown, however the address is written and whatever a message repeats of it."""

import random
import subprocess
import sys
from itertools import product
from urllib.parse import quote

import pytest
from conftest import environment
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from pipeline.system import addresses

SECRET = "s3cr3t"
ODD = ["", "/", "@", ":", " ", "?", "#", "&", "=", "%", "+", "'", '"', "\\", "[", "é", "//", "@:", "%40"]
FORMS = [
    "{scheme}://ann:{secret}@srv/db",
    "{scheme}://ann@corp:{secret}@srv/db",
    "{scheme}://{secret}@srv/db",
    "{scheme}://:{secret}@srv/db",
    "{scheme}://srv/db?user=ann&password={secret}",
    "{scheme}://srv/db?token={secret}",
    "{scheme}://srv:5432/db?sslmode=require&{secret}",
    "{scheme}://srv/db#{secret}",
    "{scheme}://srv:1#{secret}",
    "{scheme}://srv#{secret}",
    "{scheme}://srv/db;token={secret}",
    "{scheme}://srv;token={secret}",
    "{scheme}://srv/db&token={secret}",
    "{scheme}://srv/token={secret}",
    "{scheme}://ann:{secret}@[::1]:80/db",
    "ann:{secret}@srv/db",
    "://ann:{secret}@srv",
]
SCHEMES = ["http", "https", "postgresql", "postgresql+psycopg", "mysql", "mssql+pyodbc", "s3", "mlflow-artifacts"]
SQLITE_PLAIN = "sqlite:////home/ann/a b@c/mlflow.db"


def passwords(drawn: random.Random) -> list[str]:
    """Return passwords with odd characters before, within and after a word that no address holds otherwise."""
    found = [f"{SECRET}{odd}{SECRET}" for odd in ODD] + [quote(f"{SECRET}{odd}", safe="") for odd in ODD]
    mixed = ("".join(drawn.choices([SECRET, *ODD], k=drawn.randint(2, 6))) + SECRET for _ in range(60))
    return [*found, *mixed]


def messages(address: str, password: str) -> list[str]:
    """Return what libraries say when they cannot use an address."""
    said = [
        address,
        f"cannot reach {address}; try again",
        repr(address),
        f"connection failed for 'password': {password!r}",
    ]
    for read in (make_url, lambda one: addresses.urlsplit(one).port):
        try:
            read(address)
        except (ValueError, ArgumentError) as error:
            said.append(str(error))
    return said


def test_no_form_of_an_address_shows_its_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = random.Random(1)
    for scheme, form, password in product(SCHEMES, FORMS, passwords(drawn)):
        address = form.format(scheme=scheme, secret=password)
        configured = drawn.choice(addresses.VARIABLES)
        with monkeypatch.context() as patched:
            patched.setenv(configured, address)
            for message in messages(address, password):
                assert SECRET not in addresses.shown(message), (configured, address, message)
        for message in messages(address, password)[:3]:
            assert SECRET not in addresses.shown(message, address), (address, message)


@pytest.mark.parametrize("odd", ["", "/", "@", ":", " ", "@:", "é"])
def test_an_address_that_nobody_configured_is_hidden_in_a_message(odd: str) -> None:
    password = f"{SECRET}{odd}{SECRET}"
    for form in ("mysql://ann:{}@srv/x", "postgresql://a@b:{}@srv/db?password=y", "http://ann:{}@srv:80/x"):
        assert SECRET not in addresses.shown(f"the store {form.format(password)} fails, see http://srv/help")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://ann:s3cr3t@srv:5432/db", "postgresql://***@srv:5432/db"),
        ("postgresql+psycopg://ann@corp:s3cr3t@srv/db?sslmode=require", "postgresql+psycopg://***@srv/db?***"),
        ("postgresql://ann:s3/cr et@[::1]:5432/db", "postgresql://***@[::1]:5432/db"),
        ("http://s3cr3t@srv:5000/mlflow", "http://***@srv:5000/mlflow"),
        ("https://srv/mlflow?token=s3cr3t", "https://srv/mlflow?***"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("postgresql://srv/db", "postgresql://srv/db"),
        ("s3://bucket/folder", "s3://bucket/folder"),
        ("mysql://ann:s3cr@3t@srv/db", addresses.UNREADABLE),
        ("http://ann:s3cr/3t@srv", addresses.UNREADABLE),
        ("http://ann:s3cr3t", addresses.UNREADABLE),
        ("postgresql://ann:s3cr3t/db", addresses.UNREADABLE),
        ("postgresql://s3cr?3t@srv/db", "postgresql://***@srv/db"),
        ("postgresql://s3cr/3t@srv/db", addresses.UNREADABLE),
        (SQLITE_PLAIN, SQLITE_PLAIN),
        ("mlruns", "mlruns"),
        ("/home/ann/mlruns", "/home/ann/mlruns"),
        ("file:///home/ann/mlruns", "file:///home/ann/mlruns"),
        ("", ""),
    ],
)
def test_what_is_no_secret_is_shown(address: str, shown: str) -> None:
    assert addresses.shown(address, address) == shown
    assert addresses.shown(f"the store {address} fails", address) == f"the store {shown} fails"


def test_a_message_without_secrets_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ann:pw@srv/db")
    for message in ("no such table: experiments", "a spwan, not pw1", "http://127.0.0.1:5000/#/models", "100 %"):
        shown = addresses.shown(message)
        assert shown == message.replace("/#/models", "/?***")
    assert addresses.shown("password pw of 'ann'") == "password *** of 'ann'"


def test_the_secrets_of_mlflows_variables_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in addresses.SECRETS:
        monkeypatch.setenv(name, f"{name} value")
        assert addresses.shown(f"sent {name} value and failed") == "sent *** and failed"


def test_users_of_one_store_have_one_place() -> None:
    same = ["postgresql://srv/db", "postgresql+psycopg://ann:pw@srv/db", "postgresql://bob@srv/db?sslmode=require"]
    assert {addresses.place(one) for one in same} == {"postgresql://srv/db"}
    others = ["postgresql://srv/other", "postgresql://srv:1/db", "mysql://srv/db", "http://srv/db", "http://a:b@c@d"]
    assert len({addresses.place(one) for one in [*same, *others]}) == 6


def test_sqlalchemy_is_loaded_for_a_databases_address_alone() -> None:
    code = f"""
import sys
from pipeline.system import addresses
addresses.shown({SQLITE_PLAIN!r}), addresses.shown("http://ann:pw@srv fails")
assert "sqlalchemy" not in sys.modules
addresses.shown("postgresql://ann:pw@srv/db")
assert "sqlalchemy" in sys.modules
"""
    variables = environment(MLFLOW_TRACKING_URI=SQLITE_PLAIN)
    subprocess.run([sys.executable, "-c", code], env=variables, check=True)
