"""A site's key and whom it trusts: what is wrong is named by its file."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fl_client.link.credentials import check_address, load_key, tls_context
from fl_common.errors import LinkError


@pytest.mark.parametrize("server", ["fl.org:9092", "127.0.0.1:1", "[::1]:65535"])
def test_address_is_taken(server):
    assert check_address(server) == server


@pytest.mark.parametrize(
    "server", ["", "fl.org", ":9092", "fl.org:0", "fl.org:65536", "http://a:1"]
)
def test_other_address_is_refused(server):
    with pytest.raises(LinkError, match="expected HOST:PORT"):
        check_address(server)


def test_key_is_made_up_without_a_file():
    assert load_key(None).private_numbers() != load_key(None).private_numbers()


@pytest.mark.parametrize("form", ["PKCS8", "OpenSSH"])
def test_key_is_read_in_either_form(tmp_path, form):
    key = ec.generate_private_key(ec.SECP384R1())
    path = tmp_path / "a.key"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            getattr(serialization.PrivateFormat, form),
            serialization.NoEncryption(),
        )
    )
    assert load_key(path).private_numbers() == key.private_numbers()


def test_other_key_is_named(tmp_path):
    path = tmp_path / "a.key"
    with pytest.raises(LinkError, match=r"a\.key: cannot read"):
        load_key(path)
    path.write_text("nonsense")
    with pytest.raises(LinkError, match=r"a\.key: not an unencrypted private key"):
        load_key(path)
    key = rsa.generate_private_key(65537, 2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(LinkError, match="expected an elliptic curve key"):
        load_key(path)


def test_ca_that_is_missing_or_none_is_named(tmp_path):
    path = tmp_path / "ca.pem"
    with pytest.raises(LinkError, match=r"ca\.pem: no such CA file"):
        tls_context(path)
    path.write_text("nonsense")
    with pytest.raises(LinkError, match=r"ca\.pem: not a CA certificate"):
        tls_context(path)
