"""Many objects in one request, out of Flower's store and into it."""

from __future__ import annotations

from collections.abc import Iterator

from fl_server.superlink.link_state import WatchedLinkState
from strategies.wire.fleet import frame, unpack_ids, unpack_objects


def frames(state: WatchedLinkState, run_id: int, wanted: bytes) -> Iterator[bytes]:
    """Yield a frame for each object that is asked for."""
    for object_id in unpack_ids(wanted):
        yield frame(state.get_object(run_id, object_id))


def store(state: WatchedLinkState, run_id: int, upload: str, body: bytes) -> bool:
    """Store the objects of a request; False if it is malformed or nobody waits for them."""
    try:
        return all(
            state.store_object(run_id, upload, object_id, content)
            for object_id, content in unpack_objects(body)
        )
    except ValueError:
        return False
