"""Image tasks over real processes: folders on disk, TLS, keys; the scores are the simulation's."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from fl_server.superlink.keys import new_certificates, new_node_key
from tasks.images.issues import ImageIssues
from tasks.object_detection.yolo import read_yolo
from tests.tasks.image_classification import conftest as classes
from tests.tasks.object_detection.conftest import Site as BoxSite
from tests.tasks.object_detection.shapes import CLASSES as SHAPES
from tests.tasks.object_detection.shapes import write_shapes
from tests.tasks.semantic_segmentation import conftest as masks
from tests.test_deployment import BIN, Federation, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
NAMES = ("a", "b")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Both runtimes add up in the same order; more threads round differently."""


@dataclass(frozen=True)
class Case:
    """A use case, and what writes its two sites: from a folder to ``data`` of ``site.yaml``."""

    overrides: tuple[str, ...]
    sites: tuple[Callable[[Path], dict], Callable[[Path], dict]]


def class_folder(root):
    classes.Site(root).folder()
    (root / "folder" / "disc" / "cut.png").write_bytes(b"")
    return {"train": "folder", "on_invalid": "drop"}


def of_their_own(folder):
    """Make the pictures below a folder other files than those that they were drawn like."""
    for file in folder.rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"held out")


def manifest(root):
    classes.Site(root, (10, 14, 12)).manifest()
    classes.Site(root / "held", (4, 5, 6)).folder()
    of_their_own(root / "held")
    return {"train": "labels.csv", "holdout": "held/folder"}


def mask_folder(root):
    masks.Site(root).write()
    return {"train": "."}


def split_masks(root):
    masks.Site(root, 12).write(sub="train")
    masks.Site(root, 5).write(sub="test")
    of_their_own(root / "test")
    return {"train": "."}


def data_yaml(root):
    write_shapes(root, 24)
    return {"train": "data.yaml"}


def coco(root):
    rows = read_yolo(write_shapes(root, 20, seed=1), SHAPES, ImageIssues())
    content = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": 5 - i, "name": name} for i, name in enumerate(SHAPES)]
    for number, raw in enumerate(rows):
        content["images"].append({"id": number, "file_name": Path(raw.image.name).name})
        for box, name in zip(raw.boxes * 64, raw.names, strict=True):
            corner, size = box[:2].tolist(), (box[2:] - box[:2]).tolist()
            label = {"image_id": number, "category_id": 5 - SHAPES.index(name)}
            content["annotations"].append(label | {"bbox": corner + size})
    (root / "labels.json").write_text(json.dumps(content))
    return {"train": "labels.json"}


def voc(root):
    rows = list(read_yolo(write_shapes(root, 20, seed=2), SHAPES, ImageIssues()))
    (root / "data.yaml").unlink()
    (root / "images").rename(root / "JPEGImages")
    shutil.rmtree(root / "labels")
    writer = BoxSite(root)
    (root / "Annotations").mkdir()
    for raw in rows:
        boxes = zip((raw.boxes * 64).tolist(), raw.names, strict=True)
        objects = [(*box, name) for box, name in boxes]
        writer.annotation(Path(raw.image.name).stem, objects, (64, 64))
    return {"train": "."}


BOXES = (
    "usecase=object_detection",
    "usecase.classes=[square,disc]",
    "usecase.image_size=64",
    "train.batch_size=4",
    "train.lr=0.005",
)
CASES = {
    "classification": Case(
        (
            "usecase=image_classification",
            "usecase.classes=[disc,ring,cross]",
            "usecase.image_size=16",
            "usecase.subgroups={discs: {class: disc}}",
            "model=simple_cnn",
            "model.params.channels=[4,8]",
            "model.params.hidden=8",
            "model.params.norm=batch",
            "train.lr=0.01",
        ),
        (class_folder, manifest),
    ),
    "segmentation": Case(
        (
            "usecase=semantic_segmentation",
            "usecase.classes=[ground,square,disc]",
            "usecase.image_size=24",
            "model.params.channels=[4,8]",
            "train.lr=0.01",
        ),
        (mask_folder, split_masks),
    ),
    "detection": Case((*BOXES, "model=fcos", "model.params.backbone=tiny"), (data_yaml, coco)),
    "yolo": Case(  # its running statistics need some sixty steps before it finds anything
        (*BOXES, "model=yolo", "model.params.width=0.0625", "train.local_epochs=15"),
        (voc, data_yaml),
    ),
}


class ImageFederation(Federation):
    """Two sites with pictures."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder, self.case = folder, case
        self.port, self.processes = free_port(), {}
        self.certificates = new_certificates(folder / "tls", ["127.0.0.1", "localhost"])
        self.sites = []
        for name, write in zip(NAMES, case.sites, strict=True):
            data = write(folder / name)
            policy = {"min_rows": 2, "min_subgroup_rows": 1}
            content = {"name": name, "data": data, "policy": policy, "audit": "audit.jsonl"}
            (folder / name / "site.yaml").write_text(yaml.safe_dump(content))
            keys = ("train", "holdout")
            paths = {key: f"{name}/{data[key]}" for key in keys if key in data}
            self.sites.append({"name": name, **data, **paths})
            new_node_key(folder / "keys", name)

    def overrides(self) -> list[str]:
        return [*self.case.overrides, "rounds=2"]

    def result(self, run: str) -> dict:
        return json.loads((self.folder / run / "result.json").read_text())

    def deploy(self) -> dict:
        server = self.server(
            "sites.expected=2", "sites.quorum=2", "board.serve=false", "board.url=null"
        )
        for name in NAMES:
            self.client(name)
        assert server.wait(200) == 0
        return self.result("deployed")

    def simulate(self) -> dict:
        sites = json.dumps(self.sites).replace('"', "")
        command = [BIN / "fl-server", *self.overrides(), f"data.sites={sites}"]
        done = subprocess.run(
            [*command, "hydra.run.dir=simulated", "board.url=null"],
            cwd=self.folder,
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return self.result("simulated")


@pytest.fixture
def federation(request, tmp_path):
    if request.param == "yolo" and importlib.util.find_spec("ultralytics") is None:
        pytest.skip("YOLO is not installed: pip install '.[yolo]'")
    federation = ImageFederation(tmp_path, CASES[request.param])
    yield federation
    federation.close()
    for name in federation.processes:
        print(f"--- {name}\n{federation.log(name)}")


@pytest.mark.parametrize("federation", CASES, indirect=True)
def test_deployed_image_task_equals_the_simulation_on_the_same_folders(federation):
    deployed, simulated = federation.deploy(), federation.simulate()
    assert [r["round"] for r in deployed["rounds"]] == [0, 1, 2]
    for record in deployed["rounds"]:
        assert {s["site"]: s["status"] for s in record["sites"]} == dict.fromkeys(NAMES, "ok")
    for phase in ("baseline", "final"):
        ours, theirs = (r["metrics"][phase] for r in (deployed, simulated))
        assert ours["overall"].keys() == theirs["overall"].keys()
        assert ours["subgroups"].keys() == theirs["subgroups"].keys()
        scopes = [(ours["overall"], theirs["overall"])]
        scopes += [(ours["subgroups"][k], theirs["subgroups"][k]) for k in theirs["subgroups"]]
        for mine, expected in scopes:
            for metric, value in expected.items():
                assert mine[metric] == pytest.approx(value, abs=1e-6), metric
    weights = [
        load_file(federation.folder / run / "model.safetensors")
        for run in ("deployed", "simulated")
    ]
    for name, value in weights[1].items():
        np.testing.assert_allclose(weights[0][name], value, atol=1e-6, err_msg=name)
    assert deployed["metrics"]["baseline"] != deployed["metrics"]["final"]

    for name in NAMES:
        text = (federation.folder / name / "audit.jsonl").read_text()
        answers = [
            line for line in map(json.loads, text.splitlines()) if line["direction"] == "out"
        ]
        assert {line["decision"] for line in answers} == {"allowed"}
        assert ".png" not in text  # not even the name of a picture left
    if (federation.folder / "a" / "folder" / "disc" / "cut.png").exists():
        assert "a: left out: 1 images are empty" in federation.log("a")
