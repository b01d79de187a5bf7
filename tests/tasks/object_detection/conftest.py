from __future__ import annotations

import json
import weakref
from zlib import crc32

import numpy as np
import pytest
import yaml
from PIL import Image

from tasks.object_detection.schema import DetectionSchema

CLASSES = ("car", "bus")
SIZE = (100, 80)
# x1, y1, x2, y2, class
BOXES = [
    [(10, 10, 30, 20, 0), (50, 40, 90, 60, 1)],
    [(0, 0, 100, 80, 0)],
    [(5, 5, 25, 45, 0), (60, 10, 80, 30, 0), (40, 50, 60, 70, 1)],
    [(20, 30, 40, 60, 1)],
]


def write_picture(path, size=SIZE):
    values = np.random.default_rng(crc32(path.name.encode())).integers(
        0, 256, (size[1], size[0], 3)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


def yolo_line(box, size=SIZE):
    x1, y1, x2, y2, label = box
    width, height = size
    shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
    return " ".join([str(label), *(f"{share:.9f}" for share in shares)])


class Site:
    """Writes the same four pictures and seven boxes in each format."""

    def __init__(self, root):
        self.root = root

    def yolo(self, names=CLASSES):
        for index, boxes in enumerate(BOXES):
            write_picture(self.root / "images" / f"p{index}.png")
            label = self.root / "labels" / f"p{index}.txt"
            label.parent.mkdir(exist_ok=True)
            label.write_text("\n".join(yolo_line(box) for box in boxes) + "\n")
        manifest = {"path": ".", "train": "images", "names": dict(enumerate(names))}
        (self.root / "data.yaml").write_text(yaml.safe_dump(manifest))
        return self.root / "data.yaml"

    def coco(self, change=lambda content: None):
        content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 7, "name": "bus"}, {"id": 3, "name": "car"}],
        }
        for index, boxes in enumerate(BOXES):
            write_picture(self.root / "images" / f"p{index}.png")
            content["images"].append(
                {"id": index + 5, "file_name": f"p{index}.png", "width": 100, "height": 80}
            )
            for x1, y1, x2, y2, label in boxes:
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": index + 5,
                        "category_id": (3, 7)[label],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": (x2 - x1) * (y2 - y1),
                        "iscrowd": 0,
                    }
                )
        change(content)
        (self.root / "labels.json").write_text(json.dumps(content))
        return self.root / "labels.json"

    def voc(self):
        (self.root / "Annotations").mkdir(parents=True)
        for index, boxes in enumerate(BOXES):
            write_picture(self.root / "JPEGImages" / f"p{index}.png")
            self.annotation(f"p{index}", [(*box[:4], CLASSES[box[4]]) for box in boxes])
        return self.root

    def annotation(self, stem, objects, size=SIZE, extra=""):
        rows = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for x1, y1, x2, y2, name in objects
        )
        (self.root / "Annotations" / f"{stem}.xml").write_text(
            f"{extra}<annotation><filename>{stem}.png</filename><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth>3</depth></size>{rows}</annotation>"
        )


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "site")


@pytest.fixture
def schema():
    return DetectionSchema.from_mapping({"classes": list(CLASSES)})


@pytest.fixture
def lenient():
    return DetectionSchema.from_mapping({"classes": list(CLASSES), "on_invalid": "drop"})


class LivePictures:
    """Counts Pillow's pictures that are alive: their pixels are seen by no profiler of Python's."""

    def __init__(self):
        self.now = self.peak = 0

    def born(self, picture):
        self.now += 1
        self.peak = max(self.peak, self.now)
        weakref.finalize(picture, self.died)

    def died(self):
        self.now -= 1


@pytest.fixture
def live(monkeypatch):
    pictures, make = LivePictures(), Image.Image.__init__

    def counted(self):
        make(self)
        pictures.born(self)

    monkeypatch.setattr(Image.Image, "__init__", counted)
    return pictures
