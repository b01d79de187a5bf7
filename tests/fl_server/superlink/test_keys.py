import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, uses_nist_ec_curve

from fl_common.errors import LinkError
from fl_server.superlink.keys import check_issuer, new_certificates, new_node_key, read_public_keys


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_node_key_is_what_flower_loads(tmp_path):
    private, public = new_node_key(tmp_path / "keys", "berlin")

    key = load_ssh_private_key(private.read_bytes(), None)

    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert uses_nist_ec_curve(key.public_key())
    assert read_public_keys([public]) == {public_key_to_bytes(key.public_key()): public}
    assert (private.name, public.name) == ("berlin.key", "berlin.pub")
    assert public.read_text().endswith(" berlin\n")
    assert (_mode(private), _mode(public)) == (0o600, 0o644)


def test_existing_files_are_kept_unless_forced(tmp_path):
    private, _public = new_node_key(tmp_path, "berlin")
    before = private.read_bytes()
    private.unlink()

    with pytest.raises(LinkError, match=r"berlin\.pub: exists already"):
        new_node_key(tmp_path, "berlin")
    assert not private.exists()

    new_node_key(tmp_path, "berlin", force=True)
    assert private.read_bytes() != before
    assert _mode(private) == 0o600


@pytest.mark.parametrize("name", ["", "a/b", "../a", "a\nb", ".."])
def test_names_that_are_no_file_names_are_refused(tmp_path, name):
    with pytest.raises(LinkError, match="no name for a key file"):
        new_node_key(tmp_path, name)


def test_server_certificate_serves_its_hosts(tmp_path):
    paths = new_certificates(tmp_path, ["localhost", "127.0.0.1", "::1"])

    check_issuer(paths.certificate, paths.ca)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(paths.certificate, paths.private_key)
    ssl.create_default_context(cafile=paths.ca)
    certificate = x509.load_pem_x509_certificate(paths.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert [_mode(path) for path in paths] == [0o644, 0o600, 0o644, 0o600]
    with pytest.raises(LinkError, match="exists already"):
        new_certificates(tmp_path, ["localhost"])


def test_openssl_accepts_the_chain(tmp_path):
    paths = new_certificates(tmp_path, ["fl.example.org"])
    command = ["openssl", "verify", "-x509_strict", "-CAfile", paths.ca, "-purpose", "sslserver"]
    try:
        done = subprocess.run([*command, paths.certificate], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    assert done.returncode == 0, done.stderr


def test_certificate_without_hosts_is_refused(tmp_path):
    with pytest.raises(LinkError, match="no host"):
        new_certificates(tmp_path, [])


def test_another_ca_is_noticed(tmp_path):
    ours, theirs = (new_certificates(tmp_path / name, ["a"]) for name in ("ours", "theirs"))

    with pytest.raises(LinkError, match="did not sign"):
        check_issuer(ours.certificate, theirs.ca)


def test_folder_of_public_keys_is_read(tmp_path):
    publics = [new_node_key(tmp_path, name)[1] for name in ("a", "b")]

    assert list(read_public_keys([tmp_path]).values()) == publics


def test_pem_public_key_is_read(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    path = tmp_path / "a.pem"
    path.write_bytes(public_key_to_bytes(key))

    assert list(read_public_keys([path])) == [public_key_to_bytes(key)]


def test_unusable_public_keys_are_named(tmp_path):
    private, _public = new_node_key(tmp_path, "a")
    (tmp_path / "garbled.pub").write_text("ecdsa-sha2-nistp384 AAAA")
    (tmp_path / "empty").mkdir()
    from cryptography.hazmat.primitives.asymmetric import ed25519

    (tmp_path / "ed.pub").write_bytes(
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    )
    for path, reason in [
        (private, "this is a private key"),
        (tmp_path / "garbled.pub", "not a public key"),
        (tmp_path / "ed.pub", "elliptic curve"),
        (tmp_path / "missing.pub", "cannot read"),
        (tmp_path / "empty", r"no \*\.pub file"),
    ]:
        with pytest.raises(LinkError, match=reason) as caught:
            read_public_keys([path])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
