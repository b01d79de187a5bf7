"""Real pictures with boxes, read from the data folder where it is present.

References
----------
KIT AIS Data Set, Karlsruhe Institute of Technology (CC BY 3.0); boxes by Y. Dmitriev,
aerial-cars-dataset. BCCD Dataset, S. Cheng, N. Toutonghi (MIT).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from fl_common.errors import DataError
from tasks.datasets.folder import data_root
from tasks.images.datasets import ImageDataset
from tasks.images.issues import ImageIssues
from tasks.object_detection.annotations import RawImage
from tasks.object_detection.voc import read_voc
from tasks.object_detection.yolo import read_yolo

CELLS = ("RBC", "WBC", "Platelets")
VEHICLES = ("car", "truck", "bus", "minibus", "cyclist")


def blood_cells() -> ImageDataset:
    """BCCD: 364 blood smears of 640 x 480 with 4,888 boxes of three kinds of cell.

    Two boxes (pictures 338 and 343) have no area; ``on_invalid: drop`` leaves them out.
    """
    folder = _folder("bccd", "BCCD")

    def records(issues: ImageIssues) -> Iterator[RawImage]:
        return read_voc(folder, issues)

    return ImageDataset("blood_cells", "object_detection", CELLS, records)


def aerial_cars() -> ImageDataset:
    """KIT AIS: two film sequences of ten aerial frames with 625 boxes.

    The column ``sequence`` is ``MOS`` or ``MunichStreet02``. Frames of a sequence are nearly
    alike, so the holdout of a site is its last frames, not a random draw.
    """
    folder = _folder("aerial_cars_kit", "images").parent

    def records(issues: ImageIssues) -> Iterator[RawImage]:
        for raw in read_yolo(folder, VEHICLES, issues):
            stem = Path(raw.image.name).stem
            sequence = "MunichStreet02" if stem.startswith("MunichStreet02") else "MOS"
            yield replace(raw, groups={"sequence": sequence})

    return ImageDataset("aerial_cars", "object_detection", VEHICLES, records, ordered=True)


def _folder(name: str, sub: str) -> Path:
    folder = data_root() / name / sub
    if not folder.is_dir():
        raise DataError(
            f"{folder} is absent; put the data set there, or set FEDLEAGUE_DATA to the folder that "
            f"holds {name}/"
        )
    return folder
