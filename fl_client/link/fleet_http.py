"""The wire between a site and the server: Flower's Fleet API over HTTP, and what can go wrong.

Trouble comes in three kinds:
`UnreachableError` may pass by waiting, `UnknownNodeError` by joining again, `LinkError` only by a
person.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from fl_client.link.credentials import (
    check_address,
    load_key,
    may_speak_http,
    speaks_tls,
    tls_context,
)
from fl_common.errors import LinkError
from strategies.wire import fleet


class Protobuf(Protocol):
    """What a protobuf message can do for us."""

    def SerializeToString(self) -> bytes:
        """Return the message as bytes."""

    def ParseFromString(self, serialized: bytes) -> Any:
        """Fill the message from bytes."""


_Response = TypeVar("_Response", bound=Protobuf)


class UnreachableError(Exception):
    """The server does not answer at present."""


class UnknownNodeError(Exception):
    """The server does not know this client (any more)."""


class RefusedError(Exception):
    """The server turned a request down; asking again is no use.

    Attributes
    ----------
    code : int
        Flower's error code, or the HTTP status where it gave none.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with code {code}")
        self.code = code


class FleetWire:
    """Requests to one server, signed with one key.

    Parameters
    ----------
    server : str
        `host:port`.
    ca : Path, optional
        Certificate of the authority that signed the server's; None trusts the system's.
    insecure : bool
        Speak plain HTTP.
    private_key : Path, optional
        The node's key; None makes one up for this session.

    Raises
    ------
    LinkError
        The address is malformed, or the CA or key file is missing or unreadable.
    """

    def __init__(
        self, server: str, *, ca: Path | None, insecure: bool, private_key: Path | None
    ) -> None:
        self.server = check_address(server)
        self.insecure = insecure
        self.offers_batches = False
        self._has_answered = False
        self.key_file = private_key
        self._session = secrets.token_hex(16)
        self._key = load_key(private_key)
        self.public_key = public_key_to_bytes(self._key.public_key())
        if insecure and ca is not None:
            raise LinkError(f"{ca}: a CA is of no use with insecure; drop one of the two")
        self._http = httpx.Client(
            base_url=f"{'http' if insecure else 'https'}://{self.server}",
            verify=False if insecure else tls_context(ca),
            timeout=httpx.Timeout(60.0, connect=5.0),
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def call(
        self,
        name: str,
        request: Protobuf,
        response_type: type[_Response],
        *,
        wait_seconds: float = 0.0,
        timeout_seconds: float | None = None,
    ) -> _Response:
        """Call a method of the Fleet API.

        Parameters
        ----------
        name, request, response_type : str, Protobuf, type
            Its path, such as `pull-messages`; what to ask and what to expect.
        wait_seconds : float (default: 0.0)
            How long the server may hold the request until there is something to tell.
        timeout_seconds : float, optional
            How long to wait for an answer.
        """
        timestamp = now().isoformat()
        headers = {
            "content-type": PROTOBUF_MEDIA_TYPE,
            "accept": PROTOBUF_MEDIA_TYPE,
            TIMESTAMP_HEADER: timestamp,
            FLEET_HTTP_SIGNATURE_HEADER: _base64(sign_message(self._key, timestamp.encode())),
        }
        if wait_seconds:
            headers[fleet.WAIT_HEADER] = str(wait_seconds)
        content = request.SerializeToString()
        response = self._post(f"/v1/fleet/{name}", content, headers, timeout_seconds)
        if name == "activate-node":
            self.offers_batches = fleet.OFFER_HEADER in response.headers
        answer = response_type()
        try:
            answer.ParseFromString(response.content)
        except DecodeError as error:
            raise self._not_flower() from error
        return answer

    def pull_batch(self, run_id: int, object_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """Fetch several objects with one request; what the server lacks is left out."""
        for start in range(0, len(object_ids), fleet.BATCH_OBJECTS):
            wanted = object_ids[start : start + fleet.BATCH_OBJECTS]
            headers = {fleet.RUN_HEADER: str(run_id)}
            response = self._post(fleet.PULL_PATH, fleet.pack_ids(wanted), headers)
            try:
                yield from fleet.unframe(response.content, wanted)
            except ValueError as error:
                raise UnreachableError(str(error)) from error

    def push_batch(self, run_id: int, upload: str, objects: Sequence[tuple[str, bytes]]) -> None:
        """Send several objects with one request."""
        headers = {fleet.RUN_HEADER: str(run_id), fleet.UPLOAD_HEADER: upload}
        self._post(fleet.PUSH_PATH, fleet.pack_objects(objects), headers)

    def _post(
        self,
        path: str,
        content: bytes,
        headers: dict[str, str],
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        headers |= {
            fleet.SESSION_HEADER: self._session,
            FLEET_HTTP_PUBLIC_KEY_HEADER: _base64(self.public_key),
        }
        timeout = self._http.timeout if timeout_seconds is None else timeout_seconds
        with self._explained():
            response = self._http.post(path, content=content, headers=headers, timeout=timeout)
        if response.status_code == httpx.codes.OK:
            self._has_answered = True
            return response
        raise self._failure(path, response)

    def _failure(self, path: str, response: httpx.Response) -> Exception:
        """Tell from a response that is no success what to do about it."""
        status = response.status_code
        if (error := FlowerError.from_json(response.text)) is not None:
            if error.code == ApiErrorCode.RUNTIME_VERSION_INCOMPATIBLE:
                detail = error.public_details or error.message
                return LinkError(f"{self.server}: other version of Flower there: {detail}")
            return RefusedError(error.code)
        if status == httpx.codes.UNAUTHORIZED:
            return self._clock_error(response) or UnknownNodeError(self.server)
        if status == httpx.codes.CONFLICT and fleet.OFFER_HEADER in response.headers:
            return LinkError(
                f"{self.server}: another client has joined with the same key "
                f"({self.key_file or 'made up'}); run one client for each key"
            )
        if status in (502, 503, 504):
            return UnreachableError(f"HTTP {status}")
        if fleet.OFFER_HEADER in response.headers or path.startswith(fleet.PATH_PREFIX):
            return RefusedError(status)
        is_json = response.headers.get("content-type", "").startswith("application/json")
        if status == httpx.codes.INTERNAL_SERVER_ERROR and is_json:
            return RefusedError(status)
        return self._not_flower(f"HTTP {status}")

    def _clock_error(self, response: httpx.Response) -> LinkError | None:
        """Recognise why Flower, which signs the time, does not believe us."""
        try:
            there = parsedate_to_datetime(response.headers["date"])
        except (KeyError, ValueError):
            return None
        ahead = (now() - there).total_seconds()
        if -300 < ahead < 6:
            return None
        return LinkError(
            f"{self.server}: this machine's clock is {abs(ahead):.0f} s "
            f"{'ahead of' if ahead > 0 else 'behind'} the server's; set it (NTP)"
        )

    def _not_flower(self, saw: str = "no Flower message") -> LinkError:
        return LinkError(
            f"{self.server}: something else than a fedleague server answers there ({saw}); "
            "check host and port"
        )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn transport errors into ours."""
        try:
            yield
        except httpx.ConnectError as error:
            raise self._explain_connect(error) from error
        except httpx.RemoteProtocolError as error:
            cut_off = any(words in str(error) for words in ("disconnected", "peer closed"))
            if not (cut_off or self._has_answered):  # a dying server may say half a sentence
                raise self._not_flower("no HTTP") from error
            raise self._explain_hang_up(error) from error
        except (httpx.ReadError, httpx.WriteError) as error:
            raise self._explain_hang_up(error) from error
        except httpx.ReadTimeout as error:
            raise self._explain_hang_up(error) from error
        except httpx.TransportError as error:
            raise UnreachableError(type(error).__name__) from error

    def _explain_connect(self, error: httpx.ConnectError) -> Exception:
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text.upper().replace(" ", "_"):
            detail = text.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
            return LinkError(
                f"{self.server}: its certificate is not trusted ({detail or text}); "
                "give the CA file that the organiser handed out, and the host name it names"
            )
        if any(word in text.upper() for word in ("WRONG_VERSION", "RECORD_LAYER", "RECORD LAYER")):
            return LinkError(
                f"{self.server}: no TLS there; if the server runs insecure on purpose, "
                "run the client insecure too"
            )
        if "[SSL" in text.upper():
            return LinkError(f"{self.server}: the TLS handshake failed ({text})")
        return UnreachableError(text)

    def _explain_hang_up(self, error: Exception) -> Exception:
        if self.insecure and speaks_tls(self.server):
            return LinkError(
                f"{self.server}: the server wants TLS; run the client with its CA, not insecure"
            )
        if self.insecure and not (self._has_answered or may_speak_http(self.server)):
            return self._not_flower("no HTTP")
        return UnreachableError(type(error).__name__)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
