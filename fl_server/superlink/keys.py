"""Keys and certificates: node key pairs, a certificate authority and a server certificate.

Node keys are what Flower expects: an elliptic curve key (P-384) in OpenSSH form, so that
`flower-supernode --auth-supernode-private-key` takes the same file. Private files are created
with mode 0600, and nothing is overwritten unless asked.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_common.errors import FileWriteError, LinkError
from fl_common.files import write_atomically

_DAY = datetime.timedelta(days=1)


class Certificates(NamedTuple):
    """Where a certificate authority and a server certificate were written.

    Attributes
    ----------
    ca : Path
        Certificate of the authority: what every site needs.
    ca_private_key : Path
        Its private key: keep it offline once the server certificate exists.
    certificate, private_key : Path
        The server's certificate and private key.
    """

    ca: Path
    ca_private_key: Path
    certificate: Path
    private_key: Path


def new_node_key(folder: Path, name: str, *, force: bool = False) -> tuple[Path, Path]:
    """Create a node's key pair.

    Parameters
    ----------
    folder : Path
        Where `<name>.key` (mode 0600) and `<name>.pub` go.
    name : str
        The site's name; it also ends the public key's line, as in OpenSSH.
    force : bool (default: False)
        Overwrite existing files.

    Returns
    -------
    tuple[Path, Path]
        Private and public key file.

    Raises
    ------
    LinkError
        The name is no file name, a file exists already, or the folder cannot be written.
    """
    if not name.isprintable() or name in ("", "..") or name != Path(name).name:
        raise LinkError(f"{name!r} is no name for a key file; leave out slashes")
    private = folder.expanduser() / f"{name}.key"
    public = folder.expanduser() / f"{name}.pub"
    _refuse_existing((private, public), force=force)
    key = ec.generate_private_key(ec.SECP384R1())
    line = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    _write(private, _private_bytes(key, serialization.PrivateFormat.OpenSSH), private=True)
    _write(public, line + f" {name}\n".encode())
    return private, public


def new_certificates(
    folder: Path, hosts: Iterable[str], *, days: int = 825, force: bool = False
) -> Certificates:
    """Create a certificate authority and, signed by it, a server certificate.

    Parameters
    ----------
    folder : Path
        Where `ca.pem`, `ca.key`, `server.pem` and `server.key` go.
    hosts : Iterable[str]
        Host names and IP addresses under which sites reach the server.
    days : int (default: 825)
        Validity of the server certificate; the authority lasts ten years.
    force : bool (default: False)
        Overwrite existing files.

    Raises
    ------
    LinkError
        No host is given, a file exists already, or the folder cannot be written.
    """
    names = [_host_name(host) for host in dict.fromkeys(hosts)]
    if not names:
        raise LinkError("no host for the server certificate: name at least one, such as localhost")
    folder = folder.expanduser()
    paths = Certificates(
        *(folder / name for name in ("ca.pem", "ca.key", "server.pem", "server.key"))
    )
    _refuse_existing(paths, force=force)
    ca_key, server_key = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    ca = _ca_certificate(ca_key)
    certificate = _server_certificate(server_key, names, ca, ca_key, days)
    _write(paths.ca_private_key, _private_bytes(ca_key), private=True)
    _write(paths.ca, ca.public_bytes(serialization.Encoding.PEM))
    _write(paths.private_key, _private_bytes(server_key), private=True)
    _write(paths.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return paths


def read_public_keys(paths: Iterable[Path]) -> dict[bytes, Path]:
    """Read public keys of nodes.

    Parameters
    ----------
    paths : Iterable[Path]
        Files in OpenSSH or PEM form, or folders of which every `*.pub` is read.

    Returns
    -------
    dict[bytes, Path]
        Each key in the form in which Flower stores it (PEM), and the file that it came from.

    Raises
    ------
    LinkError
        A file is missing, unreadable, no elliptic curve public key, or a folder holds none.
    """
    keys: dict[bytes, Path] = {}
    for path in paths:
        path = path.expanduser()
        files = sorted(path.glob("*.pub")) if path.is_dir() else [path]
        if not files:
            raise LinkError(f"{path}: no *.pub file in this folder; put the sites' keys there")
        for file in files:
            keys.setdefault(_read_public_key(file), file)
    return keys


def check_issuer(certificate: Path, ca: Path) -> None:
    """Check that a certificate was signed by an authority, directly or by one in its chain.

    Raises
    ------
    LinkError
        It was not, or the authority's file is not a certificate.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
        authorities = x509.load_pem_x509_certificates(ca.read_bytes())
    except (ValueError, OSError) as error:
        raise LinkError(f"{ca}: not a CA certificate in PEM form") from error
    if not any(_signed(link, authority) for link in chain for authority in authorities):
        raise LinkError(f"{ca}: this CA did not sign {certificate}; sites would refuse the server")


def _signed(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _read_public_key(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LinkError(f"{path}: cannot read this public key ({error.strerror})") from error
    if b"PRIVATE KEY" in content:
        raise LinkError(f"{path}: this is a private key; give the server the site's .pub file")
    try:
        if content.lstrip().startswith(b"-----BEGIN"):
            key = serialization.load_pem_public_key(content)
        else:
            key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise LinkError(
            f"{path}: not a public key; expected the .pub file made with the site's key"
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise LinkError(f"{path}: expected an elliptic curve key (ecdsa), got another kind")
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise LinkError(f"{host!r} is no host name; expected a DNS name or an address") from error


def _ca_certificate(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedleague certificate authority")])
    usage = {"key_cert_sign": True, "crl_sign": True, "digital_signature": True}
    return (
        _builder(name, name, key.public_key(), days=3650)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(**usage), critical=True)
        .sign(key, hashes.SHA384())
    )


def _server_certificate(
    key: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    days: int,
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedleague server")])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(subject, ca.subject, key.public_key(), days=days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA384())
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)  # Clocks of sites differ.
        .not_valid_after(now + days * _DAY)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(**granted: bool) -> x509.KeyUsage:
    names = (
        "digital_signature content_commitment key_encipherment data_encipherment "
        "key_agreement key_cert_sign crl_sign encipher_only decipher_only"
    )
    return x509.KeyUsage(**{name: granted.get(name, False) for name in names.split()})


def _private_bytes(
    key: ec.EllipticCurvePrivateKey,
    form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8,
) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _refuse_existing(paths: Iterable[Path], *, force: bool) -> None:
    for path in paths:
        if path.exists() and not force:
            raise LinkError(f"{path}: exists already; choose another name, or force overwriting it")


def _write(path: Path, content: bytes, *, private: bool = False) -> None:
    try:
        write_atomically(path, content, private=private)
    except FileWriteError as error:
        raise LinkError(f"{path}: cannot be written ({error.reason})") from error
