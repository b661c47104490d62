"""Certificates and passwords: made once, readable by their owner alone, each only where it is needed."""

import ssl
import stat
from contextlib import suppress

import pytest
from cryptography import x509
from typer.testing import CliRunner

from broker import security
from cli.main import app
from contracts.rights import kafka_users
from contracts.secret_files import write_secret
from operations import certificates as certificates_of_ours
from operations.certificates import make

CONTAINERS = ("admin", "kafka", "payment", "operator")


@pytest.fixture
def folder(tmp_path):
    for name in CONTAINERS:
        (tmp_path / name).mkdir()
    lay_out(tmp_path)
    return tmp_path


def lay_out(folder):
    done = CliRunner().invoke(app, ["secrets", str(folder), "--host", "kafka", "--host", "127.0.0.1"])
    assert (done.exit_code, done.stdout) == (0, "secrets for admin, payment, operator, kafka\n"), done.stderr


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_container_gets_what_it_needs_and_nothing_of_another(folder):
    names = {name: {path.name for path in (folder / name).iterdir()} for name in CONTAINERS}
    assert names["payment"] == names["operator"] == {"ca.crt", "kafka.properties"}
    assert names["kafka"] == {"ca.crt", "kafka.pem", "admin.pem", "admin.properties"}
    assert {f"{user.name}.password" for user in kafka_users()} < names["admin"]
    password = (folder / "admin" / "payment.password").read_bytes()
    assert {path.parts[0] for path, found in contents(folder).items() if password in found} == {"admin", "payment"}


def test_they_are_readable_by_the_owner_alone(folder):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in CONTAINERS} == {0o700}


def test_a_second_time_changes_none(folder):
    before = contents(folder)
    lay_out(folder)
    assert contents(folder) == before


@pytest.mark.parametrize("suffix", ["crt", "key", "pem"])
def test_a_certificate_that_is_missing_is_made_and_all_others_stay(tmp_path, suffix):
    """As that of a new version is, beside a broker that runs."""
    made = tmp_path / "made"
    make(made, {"kafka": ["127.0.0.1"], "admin": []})
    before = contents(made)
    make(made, {"kafka": ["127.0.0.1"], "admin": [], "api": ["localhost"]})
    first_ca = before.pop(made.joinpath("ca.crt").relative_to(made))
    assert {path: contents(made)[path] for path in before} == before
    shakes_hands(made, "api", "localhost")
    (made / f"api.{suffix}").unlink()
    make(made, {"kafka": ["127.0.0.1"], "admin": [], "api": ["localhost"]})
    assert {path: contents(made)[path] for path in before} == before
    assert (made / "ca.crt").read_bytes().startswith(first_ca)
    for name, host in (("api", "localhost"), ("kafka", "127.0.0.1")):
        shakes_hands(made, name, host)


def shakes_hands(folder, name, host):
    """A server with a certificate, and a client that trusts the folder's authorities, agree."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    server.load_cert_chain(folder / f"{name}.pem")
    client = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=host),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    while ends:
        try:
            ends[0].do_handshake()
            ends.pop(0)
        except ssl.SSLWantReadError:
            ends.reverse()


@pytest.mark.parametrize("lost", ["ca.crt", "api.crt", "kafka.key", "admin.pem"])
def test_whatever_is_interrupted_is_whole_the_next_time(tmp_path, monkeypatch, lost):
    certificates = {"kafka": ["127.0.0.1"], "admin": [], "api": ["localhost"]}
    write = write_secret
    for most in range(10):
        made = tmp_path / str(most)
        make(made, certificates)
        (made / lost).unlink()
        left = iter(range(most))

        def dies(file, text, left=left):
            if next(left, None) is None:
                raise KeyboardInterrupt
            write(file, text)

        monkeypatch.setattr(certificates_of_ours, "write_secret", dies)
        with suppress(KeyboardInterrupt):
            make(made, certificates)
        monkeypatch.setattr(certificates_of_ours, "write_secret", write)
        make(made, certificates)
        for name, host in (("api", "localhost"), ("kafka", "127.0.0.1")):
            shakes_hands(made, name, host)


def test_an_interrupted_time_is_begun_again(folder):
    (folder / "admin" / "ca.crt").unlink()
    lay_out(folder)
    identity = {
        "SETTLE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "SETTLE_KAFKA_SSL_CA": str(folder / "kafka" / "ca.crt"),
        "SETTLE_KAFKA_SSL_CERTIFICATE": str(folder / "admin" / "admin.crt"),
        "SETTLE_KAFKA_SSL_KEY": str(folder / "admin" / "admin.key"),
    }
    security.assume("made:9094", identity)
    security.check("made:9094")  # certificate and key fit


def test_the_brokers_certificate_is_for_its_hosts_and_a_clients_is_for_none(tmp_path):
    make(tmp_path / "made", {"kafka": ["kafka", "127.0.0.1"], "admin": []})
    kafka, admin, ca = (
        x509.load_pem_x509_certificate((tmp_path / "made" / f"{name}.crt").read_bytes())
        for name in ("kafka", "admin", "ca")
    )
    names = kafka.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kafka"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    with pytest.raises(x509.ExtensionNotFound):
        admin.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    for one in (kafka, admin):
        one.verify_directly_issued_by(ca)
    ssl.create_default_context(cafile=str(tmp_path / "made" / "ca.crt"))
    assert "PRIVATE" not in (tmp_path / "made" / "ca.crt").read_text()
