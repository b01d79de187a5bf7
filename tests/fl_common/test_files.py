"""Files are whole or not there, and say plainly why they cannot be written."""

import errno
import os
import stat

import numpy as np
import pytest

from fl_common import files
from fl_common.errors import FileWriteError


def test_file_is_replaced_and_nothing_else_stays(tmp_path):
    path = tmp_path / "new" / "a.json"
    files.write_atomically(path, b"one")
    files.write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.write_atomically(path, b"one")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(FileWriteError, match="no space left on the disk for 3 bytes"):
        files.write_atomically(path, b"two")
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(FileWriteError, match="cannot be written") as raised:
        files.write_atomically(tmp_path / "a" / "b", b"")
    assert raised.value.path == tmp_path / "a" / "b"
    assert raised.value.reason


def test_private_file_is_its_owners_even_over_a_left_over_part(tmp_path):
    (tmp_path / f".key{files.PART}").write_text("left over by a crash")
    files.write_atomically(tmp_path / "key", b"secret", private=True)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_checksum_sees_values_types_shapes_and_names():
    array = np.arange(4, dtype=np.float32)
    same = files.arrays_checksum("t", {"a": array.copy()})
    assert files.arrays_checksum("t", {"a": array}) == same
    others = [
        files.arrays_checksum("u", {"a": array}),
        files.arrays_checksum("t", {"b": array}),
        files.arrays_checksum("t", {"a": array.reshape(2, 2)}),
        files.arrays_checksum("t", {"a": array.view(np.int32)}),
        files.arrays_checksum("t", {"a": array + 1}),
    ]
    assert same not in others
    assert len(set(others)) == len(others)
