"""What our clients and server add to Flower's Fleet API: paths, headers, many objects at once.

A resident client names its session in a header; a server that knows such clients says so in its
answers. Objects then travel in batches, because each request costs a round trip.

=====  ==========================================  ============================================
path   request                                     answer
=====  ==========================================  ============================================
pull   ids of 32 bytes, one after the other        a frame for each: its length as a signed
                                                   64-bit number (-1: there is no such object),
                                                   then its content
push   for each object its id, then such a frame   none
=====  ==========================================  ============================================
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

SESSION_HEADER = "x-fedleague-session"
"""Which start of a client speaks: the last one that joined with a key is served."""
WAIT_HEADER = "x-fedleague-wait"
"""For how many seconds the server may hold a request for messages until there is one."""
OFFER_HEADER = "x-fedleague"
"""In an answer: this server knows sessions, waiting and batches."""
RUN_HEADER = "x-fedleague-run"
UPLOAD_HEADER = "x-fedleague-upload"

PATH_PREFIX = "/v1/fedleague/"
PULL_PATH = f"{PATH_PREFIX}pull-objects"
PUSH_PATH = f"{PATH_PREFIX}push-objects"

BATCH_BYTES = 8 * 2**20
BATCH_OBJECTS = 64

_ID_BYTES = 32
_LENGTH = struct.Struct(">q")
_ABSENT = -1


def pack_ids(object_ids: Iterable[str]) -> bytes:
    """Encode what is asked for."""
    return b"".join(bytes.fromhex(object_id) for object_id in object_ids)


def unpack_ids(body: bytes) -> Iterator[str]:
    """Yield the ids that a request asks for; a cut one is as unknown as any other."""
    for start in range(0, len(body), _ID_BYTES):
        yield body[start : start + _ID_BYTES].hex()


def frame(content: bytes | None) -> bytes:
    """Encode one object of an answer; None or nothing where there is none."""
    return _LENGTH.pack(len(content)) + content if content else _LENGTH.pack(_ABSENT)


def unframe(body: bytes, object_ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield id and content of the objects in an answer; what the server lacks is left out.

    Raises
    ------
    ValueError
        If the answer was cut short.
    """
    view, position = memoryview(body), 0
    for object_id in object_ids:
        if position + _LENGTH.size > len(view):
            raise ValueError("an answer was cut short")
        (length,) = _LENGTH.unpack_from(view, position)
        position += _LENGTH.size
        if length >= 0:
            content = bytes(view[position : position + length])
            if len(content) != length:
                raise ValueError("an answer was cut short")
            yield object_id, content
            position += length


def pack_objects(objects: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode objects that are sent."""
    parts: list[bytes] = []
    for object_id, content in objects:
        parts += (bytes.fromhex(object_id), _LENGTH.pack(len(content)), content)
    return b"".join(parts)


def unpack_objects(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield id and content of the objects that were sent.

    Raises
    ------
    ValueError
        If the body is malformed; what came before it was yielded.
    """
    view, position = memoryview(body), 0
    while position < len(view):
        start = position + _ID_BYTES + _LENGTH.size
        if start > len(view):
            raise ValueError("an object was cut short")
        (length,) = _LENGTH.unpack_from(view, position + _ID_BYTES)
        content = bytes(view[start : start + length]) if length >= 0 else b""
        if len(content) != length:
            raise ValueError("an object does not have the length that it declares")
        yield bytes(view[position : position + _ID_BYTES]).hex(), content
        position = start + length
