"""Many objects in one request: the frames that our clients and the gate exchange.

Asking: 32-byte ids, one after the other. Answer: a frame for each, its length as a signed 64-bit
number (-1: the server has no such object) and its content. Sending: id, length, content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from fl_server.superlink.link_state import WatchedLinkState

_ID_BYTES = 32
_LENGTH = struct.Struct(">q")


def frames(state: WatchedLinkState, run_id: int, wanted: bytes) -> Iterator[bytes]:
    """Yield a frame for each object that is asked for."""
    for start in range(0, len(wanted), _ID_BYTES):
        content = state.get_object(run_id, wanted[start : start + _ID_BYTES].hex())
        yield _LENGTH.pack(len(content)) + content if content else _LENGTH.pack(-1)


def store(state: WatchedLinkState, run_id: int, upload: str, body: bytes) -> bool:
    """Store the objects of a request; False if it is malformed or nobody waits for them."""
    position, view = 0, memoryview(body)
    while position < len(body):
        start = position + _ID_BYTES + _LENGTH.size
        if start > len(body):
            return False
        (length,) = _LENGTH.unpack_from(body, position + _ID_BYTES)
        content = bytes(view[start : start + length])
        object_id = body[position : position + _ID_BYTES].hex()
        if length < 0 or len(content) != length:
            return False
        if not state.store_object(run_id, upload, object_id, content):
            return False
        position = start + length
    return True
