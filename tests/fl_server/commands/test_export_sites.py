"""Exported sites: what the simulation cut out of a data set, as files that give the same scores."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from fl_client.policy.site import site_from_json
from fl_common.errors import ConfigError
from fl_server.commands.cli import main
from fl_server.commands.export_sites import write_sites
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.execution import execute
from fl_server.runtimes.simulated_sites import simulated_site
from fl_server.runtimes.simulation import InProcessGrid
from tasks.contract import DataSource
from tasks.datasets.cell_masks import cell_masks
from tasks.datasets.crowd import crowd_detection
from tasks.datasets.mammography import mammography
from tasks.datasets.pictures import digits
from tasks.images import datasets as images
from tasks.images.datasets import ImageDataset
from tasks.images.export import write_picture
from tasks.images.image_refs import FileImage
from tasks.registry import load_task


def few(dataset, count):
    def records(report):
        return islice(dataset.records(report), count)

    return ImageDataset(dataset.name, dataset.task, dataset.classes, records)


def few_digits():
    return few(digits(), 200)


def few_masses():
    return few(mammography(), 60)


def few_cells():
    return few(cell_masks(), 24)


def few_scenes():
    return few(crowd_detection(), 16)


@pytest.fixture(autouse=True)
def small_sets(monkeypatch):
    for name in ("few_digits", "few_masses", "few_cells", "few_scenes"):
        monkeypatch.setitem(images._READERS, name, f"{__name__}:{name}")


CASES = {
    "breast_cancer": ("rounds=1",),
    "digits": ("data.dataset=few_digits", "data.num_sites=3", "model.params.channels=[4]"),
    "mammography": (
        "data.dataset=few_masses",
        "data.num_sites=3",
        "partition=column",
        "partition.column=density",
        "model=simple_cnn",
        "model.params.channels=[4]",
        "usecase.image_size=16",
    ),
    "cell_masks": ("data.dataset=few_cells", "model.params.channels=[4,8]"),
    "crowd_detection": (
        "data.dataset=few_scenes",
        "data.num_sites=2",
        "model=fcos",
        "model.params.backbone=tiny",
        "usecase.image_size=64",
        "train.lr=0.003",
        "train.local_epochs=2",
    ),
}


def sites_of(folders):
    """Return ``data.sites`` of exported sites, as an operator would type them."""
    sites = []
    for folder in folders:
        content = yaml.safe_load((folder / "site.yaml").read_text())
        paths = {key: str(folder / value) for key, value in content["data"].items()}
        sites.append({"name": content["name"], **paths})
    return "data.sites=" + json.dumps(sites).replace('"', "")


def without_the_table(overrides):
    """Drop what is said of a table that files replace: they are not cut."""
    if not any(override.startswith("data.sites=") for override in overrides):
        return overrides
    named = ("data.dataset=", "data.num_sites=", "partition")
    return [override for override in overrides if not override.startswith(named)]


def scored(overrides, folder):
    config = compose_overrides(
        [*without_the_table(overrides), "rounds=1", "board.url=null"], folder
    )
    execute(InProcessGrid(config.site_data), config)
    result = json.loads((folder / "result.json").read_text())
    return result["metrics"], [round_["score"] for round_ in result["rounds"]]


@pytest.mark.parametrize("usecase", CASES)
def test_exported_sites_give_the_scores_of_the_data_set(usecase, tmp_path):
    overrides = list(CASES[usecase])
    folders = write_sites(usecase, overrides, tmp_path / "sites")
    job = [f"usecase={usecase}", *overrides]
    expected = scored(job, tmp_path / "named")
    assert scored([*job, sites_of(folders)], tmp_path / "files") == expected
    assert len({json.dumps(phase, sort_keys=True) for phase in expected[0].values()}) > 1


@pytest.mark.parametrize("usecase", CASES)
def test_validation_rows_are_exported_beside_them(usecase, tmp_path):
    """The files' own fraction stays unused: every split is a file of its own."""
    overrides = [*CASES[usecase], "data.validation_fraction=0.2", "rounds=1", "board.url=null"]
    folders = write_sites(usecase, overrides, tmp_path / "sites")
    judged = []
    for more, folder in ((), "named"), ((sites_of(folders),), "files"):
        job = [f"usecase={usecase}", *overrides, *more]
        config = compose_overrides(without_the_table(job), tmp_path / folder)
        rounds = execute(InProcessGrid(config.site_data), config).rounds
        judged.append([(record.score, record.validation_score) for record in rounds])
    assert judged[0] == judged[1]
    assert all(score is not None for pair in judged[0] for score in pair)


def test_exported_boxes_are_the_same_to_the_last_bit(tmp_path):
    overrides = list(CASES["crowd_detection"])
    (folder, _) = write_sites("crowd_detection", overrides, tmp_path)
    config = compose_overrides(["usecase=crowd_detection", *overrides])
    task = load_task("object_detection", config.schema)
    source = site_from_json(simulated_site(config.site_data[0])).source
    left = task.read(source, config.split_seed)
    paths = (str(folder / f"{part}.json") for part in ("train", "holdout"))
    right = task.read(DataSource("site_0", *paths), 0)
    for ours, theirs in ((left.train, right.train), (left.holdout, right.holdout)):
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(one.boxes, two.boxes)
            np.testing.assert_array_equal(one.labels, two.labels)
            np.testing.assert_array_equal(np.asarray(one.image()), np.asarray(two.image()))


@pytest.mark.parametrize("kind", ["sixteen.png", "turned.jpg", "palette.png"])
def test_picture_files_are_copied_and_read_alike(kind, tmp_path):
    path = tmp_path / kind
    values = np.random.default_rng(0).integers(0, 65536, (12, 20)).astype(np.uint16)
    if kind == "sixteen.png":
        Image.fromarray(values).save(path)
    elif kind == "palette.png":
        Image.fromarray((values >> 8).astype(np.uint8)).convert("P").save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray((values >> 8).astype(np.uint8)).save(path, exif=exif)
    copy = write_picture(FileImage(path), tmp_path / "out", 7)
    assert (copy.name, copy.read_bytes()) == (f"000007{path.suffix}", path.read_bytes())


def call(*arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fedleague", "export-sites", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code, capsys.readouterr()


def test_export_names_its_folders_and_refuses_to_overwrite(tmp_path, monkeypatch, capsys):
    arguments = ["--usecase", "digits", "--out", str(tmp_path / "sites")]
    arguments += [part for o in CASES["digits"] for part in ("--override", o)]
    code, said = call(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert said.out.split() == [str(tmp_path / f"sites/site_{i}") for i in range(3)]
    assert {p.name for p in (tmp_path / "sites/site_0").iterdir()} == {
        *("site.yaml", "train", "train.csv", "holdout", "holdout.csv")
    }
    code, said = call(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert said.err.endswith("site_0 exists already; give another --out\n")


@pytest.mark.parametrize(
    ("usecase", "overrides", "says"),
    [
        ("image_classification", ["usecase.classes=[a,b]"], "no data: give data.sites"),
        ("digits", ["data.sites=[pictures/]"], "pictures/ is a site's own already"),
        ("digits", ["data.dataset=cell_masks"], "is for the task semantic_segmentation"),
    ],
)
def test_what_cannot_be_exported_is_refused(usecase, overrides, says, tmp_path):
    with pytest.raises(ConfigError, match=says):
        write_sites(usecase, overrides, tmp_path / "sites")
    assert not list(tmp_path.rglob("site*/*"))


def test_failed_export_leaves_no_half_site(tmp_path, monkeypatch):
    def full(image: object, folder: Path, number: int) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tasks.image_classification.export.write_picture", full)
    with pytest.raises(ConfigError, match=r"site_0 cannot be written \(No space left"):
        write_sites("digits", list(CASES["digits"]), tmp_path / "sites")
    assert list((tmp_path / "sites").iterdir()) == []
