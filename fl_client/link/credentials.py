"""A site's key, whom it trusts, and what kind of server it has found."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl_common.errors import LinkError


def check_address(server: str) -> str:
    """Return `HOST:PORT` as it is, if it is one."""
    host, colon, port = server.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536) or "/" in server:
        raise LinkError(f"{server!r} is no server address; expected HOST:PORT, such as fl.org:9092")
    return server


def load_key(path: Path | None) -> ec.EllipticCurvePrivateKey:
    """Read a node's private key in OpenSSH or PEM form; without a file, make one up."""
    if path is None:
        return ec.generate_private_key(ec.SECP384R1())
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise LinkError(f"{path}: cannot read the node's key ({error.strerror})") from error
    key: object
    try:
        if b"OPENSSH PRIVATE KEY" in content:
            key = serialization.load_ssh_private_key(content, None)
        else:
            key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise LinkError(f"{path}: not an unencrypted private key in OpenSSH or PEM form") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise LinkError(f"{path}: expected an elliptic curve key (ecdsa), got another kind")
    return key


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Return a context that trusts a CA file; without one, what the system trusts."""
    if ca is None:
        return ssl.create_default_context()
    if not ca.expanduser().is_file():
        raise LinkError(f"{ca}: no such CA file; ask the organiser for it")
    try:
        return ssl.create_default_context(cafile=ca.expanduser())
    except (ssl.SSLError, OSError) as error:
        raise LinkError(f"{ca}: not a CA certificate in PEM form") from error


def speaks_tls(server: str) -> bool:
    """Try whether a TLS handshake succeeds, whatever the certificate."""
    host, _, port = server.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        # ssl.get_server_certificate leaves a socket open whose handshake is cut
        with (
            socket.create_connection((host.strip("[]"), int(port)), timeout=5.0) as connection,
            context.wrap_socket(connection, do_handshake_on_connect=False) as wrapped,
        ):
            wrapped.do_handshake()
    except (OSError, ValueError):
        return False
    return True


def may_speak_http(server: str) -> bool:
    """Try whether the first thing a server says is HTTP; silence and absence do not tell."""
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2.0) as connection:
            connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            said = connection.recv(5)
    except (OSError, ValueError):
        return True
    return not said or said.startswith(b"HTTP/"[: len(said)])
