"""Many objects in one request: what one side packs the other unpacks, and nothing else."""

import pytest

from strategies.wire.fleet import (
    frame,
    pack_ids,
    pack_objects,
    unframe,
    unpack_ids,
    unpack_objects,
)

IDS = [f"{number:064x}" for number in (1, 2, 3)]


def test_ids_travel():
    assert list(unpack_ids(pack_ids(IDS))) == IDS
    assert len(pack_ids(IDS)) == 32 * len(IDS)


def test_objects_travel_one_by_one():
    objects = list(zip(IDS, (b"a", b"", bytes(300)), strict=True))
    assert list(unpack_objects(pack_objects(objects))) == objects


def test_an_answer_leaves_out_what_the_server_lacks():
    body = frame(b"first") + frame(None) + frame(b"third")
    assert list(unframe(body, IDS)) == [(IDS[0], b"first"), (IDS[2], b"third")]


@pytest.mark.parametrize("cut", [1, 8, 12])
def test_an_answer_that_was_cut_short_is_an_error(cut):
    body = frame(b"first") + frame(b"next")
    with pytest.raises(ValueError, match="cut short"):
        list(unframe(body[:-cut], IDS[:2]))


@pytest.mark.parametrize(
    "body",
    [
        bytes(39),
        pack_objects([(IDS[0], b"abc")])[:-1],
        bytes(32) + (-1).to_bytes(8, "big", signed=True),
        bytes(32) + (2**62).to_bytes(8, "big"),
    ],
    ids=["no-length", "too-short", "negative", "enormous"],
)
def test_a_malformed_upload_is_an_error(body):
    with pytest.raises(ValueError, match="object"):
        list(unpack_objects(body))


def test_what_came_before_a_malformed_object_is_yielded():
    objects = unpack_objects(pack_objects([(IDS[0], b"abc")]) + bytes(3))
    assert next(objects) == (IDS[0], b"abc")
    with pytest.raises(ValueError, match="cut short"):
        next(objects)
