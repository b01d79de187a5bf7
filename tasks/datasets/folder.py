"""Where data sets that are not part of the installation lie."""

from __future__ import annotations

import os
from pathlib import Path

from fl_common.errors import DataError


def data_root() -> Path:
    """Return the folder of data sets that are not part of the installation.

    The environment variable FEDLEAGUE_DATA, else the first that exists of ``shared/data`` beside
    the working folder and ``shared/data`` beside the repository.

    Raises
    ------
    DataError
        If FEDLEAGUE_DATA names no folder, or no candidate exists.
    """
    given = os.environ.get("FEDLEAGUE_DATA")
    if given:
        root = Path(given).expanduser()
        if not root.is_dir():
            raise DataError(f"FEDLEAGUE_DATA={given} is not a folder; set it to the data folder")
        return root
    bases = (Path.cwd(), Path(__file__).resolve().parents[2])
    candidates = [base.parent / "shared" / "data" for base in bases]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = " or ".join(dict.fromkeys(str(c) for c in candidates))
    raise DataError(f"no data folder at {looked}; set FEDLEAGUE_DATA to the folder that holds it")
