"""Readers, splits, bad pictures and streaming."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from PIL import Image

from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import DataSource, LocalObjective, ModelSpec, Partition, TrainConfig
from tasks.image_classification.data import read_site
from tasks.image_classification.pictures import RawPicture, read_pictures
from tasks.image_classification.schema import ImageSchema
from tasks.images import arrays
from tasks.images import datasets as image_sets
from tasks.images.datasets import ImageDataset
from tasks.images.image_refs import GeneratedImage
from tasks.images.issues import ImageIssues
from tasks.images.pixels import Geometry
from tasks.registry import load_task


def schema(values, **keys):
    return ImageSchema.from_mapping(values | keys)


def pixels_by_label(data, values):
    """All pictures of a site by class, as the model sees them, sorted."""
    geometry = schema(values).geometry
    found = {}
    for split in (data.train, data.holdout):
        decoded = split.loader(geometry).batch(np.arange(len(split)))
        for label, picture in zip(split.labels.tolist(), decoded, strict=True):
            found.setdefault(label, []).append(picture.tobytes())
    return {label: sorted(pictures) for label, pictures in found.items()}


def test_every_format_gives_the_same_pictures_and_labels(site, schema_values):
    pixels, labels = site.arrays()
    expected = {
        label: sorted(p.transpose(2, 0, 1).tobytes() for p in pixels[labels == label])
        for label in range(3)
    }
    paths = [site.folder(), site.manifest(), site.manifest(ending=""), site.npz()]
    for path in paths:
        data = read_site(DataSource("a", str(path)), 0, schema(schema_values))
        assert (data.num_train, data.num_holdout) == (29, 7)
        assert np.bincount(data.holdout.labels).tolist() == [3, 2, 2]
        assert pixels_by_label(data, schema_values) == expected


def test_medmnist_names_hold_out_the_test_part(site, schema_values):
    pixels, labels = site.arrays()
    order = np.random.default_rng(0).permutation(len(labels))
    parts = dict(zip(("train", "val", "test"), np.split(order, [20, 26]), strict=True))
    keys = {f"{p}_images": pixels[rows] for p, rows in parts.items()}
    keys |= {f"{p}_labels": labels[rows][:, None] for p, rows in parts.items()}
    data = read_site(DataSource("a", str(site.npz(**keys))), 0, schema(schema_values))
    assert (data.num_train, data.num_holdout) == (26, 10)
    np.testing.assert_array_equal(data.holdout.labels, labels[parts["test"]])


def test_arrays_may_have_names_of_their_own(site, schema_values):
    pixels, labels = site.arrays()
    names = np.array(schema_values["classes"])[labels]
    path = site.npz(x=pixels.transpose(0, 3, 1, 2), y=names)
    with pytest.raises(SchemaError, match="holds the arrays x, y"):
        read_site(DataSource("a", str(path)), 0, schema(schema_values))
    named = schema(schema_values, images_key="x", labels_key="y")
    data = read_site(DataSource("a", str(path)), 0, named)
    assert pixels_by_label(data, schema_values) == pixels_by_label(
        read_site(DataSource("a", str(site.folder())), 0, named), schema_values
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.full((2, 4, 4), 1.0, np.float32), 255),
        (np.full((2, 4, 4, 1), 7.0), 7),
        (np.full((2, 4, 4), 0xABCD, np.uint16), 0xAB),
        (np.full((2, 1, 5, 4), 9, np.int64), 9),
    ],
)
def test_arrays_of_other_kinds_become_bytes(values, expected):
    rows = arrays.picture_rows(values, "x")
    assert len(rows) == 2
    assert rows[1].dtype == np.uint8
    assert rows[1].ndim == 2
    assert (rows[1] == expected).all()
    assert ("sixteen_bit" in rows.conversions) is (values.dtype == np.uint16)


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 4, 4), np.nan),
        np.full((2, 4, 4), 300),
        np.full((2, 4, 4), -1),
        np.zeros((2, 4)),
        np.zeros((0, 4, 4)),
        np.zeros((2, 4, 4, 2)),
    ],
)
def test_arrays_that_are_no_pictures_are_named(values):
    with pytest.raises(DataError, match="x "):
        arrays.picture_rows(values, "x")


def test_large_arrays_stay_on_disk(site, schema_values, monkeypatch):
    path = site.npz()
    monkeypatch.setattr(arrays, "MAX_RESIDENT_BYTES", 100)
    mapped = arrays.read_npz_array(path, "images")
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(mapped, site.arrays()[0])


def test_large_arrays_of_other_kinds_are_not_copied(tmp_path, schema_values, monkeypatch):
    monkeypatch.setattr(arrays, "MAX_RESIDENT_BYTES", 100)
    path = tmp_path / "x.npz"
    values = np.arange(20 * 6 * 6, dtype=np.float32).reshape(20, 6, 6) / 720
    np.savez(path, images=values, labels=np.arange(20) % len(schema_values["classes"]))
    data = read_site(DataSource("a", str(path)), 0, schema(schema_values))
    image = data.train.pictures[0].image_ref
    assert isinstance(image.rows.array, np.memmap)
    expected = np.rint(values[image.index] * 255)
    np.testing.assert_array_equal(np.asarray(image.load())[..., 0], expected)


def test_dim_arrays_are_noted(tmp_path, schema_values):
    path = tmp_path / "x.npz"
    labels = np.arange(20) % len(schema_values["classes"])
    images = np.full((20, 6, 6), 4000, np.uint16)
    images[:, 0, 0] = np.arange(20)  # no two alike
    np.savez(path, images=images, labels=labels)
    notes = read_site(DataSource("a", str(path)), 0, schema(schema_values)).notes
    assert any("multiply them by 16" in note for note in notes)


@pytest.mark.parametrize(
    ("classes", "train", "test", "expected"),
    [
        (["1", "2", "3"], [0, 1, 2], [1, 2], ["1", "2", "3", "2", "3"]),  # places, by the 0
        (["1", "2", "3"], [1, 2, 3], [1, 2], ["1", "2", "3", "1", "2"]),  # names, by the 3
        (["b", "m"], [0, 1, 9], [1], ["b", "m", "9", "m"]),  # one bad label is one bad label
        (["b", "m"], ["b", "m", "0"], ["m"], ["b", "m", "0", "m"]),
    ],
)
def test_whole_numbers_are_told_from_names_by_all_labels(classes, train, test, expected, tmp_path):
    path = tmp_path / "x.npz"
    values = {"train_labels": np.array(train), "test_labels": np.array(test)}
    for part, labels in (("train", train), ("test", test)):
        values[f"{part}_images"] = np.zeros((len(labels), 4, 4), np.uint8)
    np.savez(path, **values)
    found = [
        raw.label
        for split in ("train", "holdout")
        for raw in read_pictures(path, schema({"classes": classes}), ImageIssues(), split)
    ]
    assert found == expected


def test_objects_and_damaged_files_are_refused(tmp_path, schema_values):
    path = tmp_path / "x.npz"
    np.savez(path, images=np.array([{}, {}], dtype=object), labels=np.zeros(2))
    with pytest.raises(DataError, match="cannot be read"):
        read_site(DataSource("a", str(path)), 0, schema(schema_values))
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match=r"cannot be read as \.npz"):
        read_site(DataSource("a", str(path)), 0, schema(schema_values))


def test_pictures_without_a_row_are_noted_and_not_used(site, schema_values):
    path = site.manifest()
    before = read_site(DataSource("a", str(path)), 0, schema(schema_values))
    listed = before.train.pictures[0].image_ref.path
    Image.new("RGB", (8, 8)).save(listed.with_name("stray.png"))
    after = read_site(DataSource("a", str(path)), 0, schema(schema_values))
    assert after.num_train == before.num_train
    assert [n for n in after.notes if n not in before.notes] == [
        f"1 images have no row in the manifest; not used ({listed.with_name('stray.png')})"
    ]


def test_a_folder_may_name_its_own_holdout(site, schema_values):
    site.folder("train")
    path = site.folder("test")
    for file in (path / "test").rglob("*.png"):
        file.write_bytes(file.read_bytes() + b"0")  # another file
    data = read_site(DataSource("a", str(path)), 0, schema(schema_values))
    assert data.num_train == data.num_holdout == 36


def test_a_manifest_gives_subgroups_and_natural_sites(site, schema_values):
    path = str(site.manifest())
    grouped = schema(schema_values, subgroups={"b": {"column": "scanner", "values": ["B"]}})
    for index in range(2):
        cut = Partition("column", 2, index, column="scanner")
        data = read_site(DataSource("a", path, partition=cut), 0, grouped)
        assert data.num_train + data.num_holdout == 18
        assert data.subgroup_rows("holdout") == {"b": data.num_holdout * index}
    wrong = Partition("column", 2, 0, column="scaner")
    with pytest.raises(SchemaError, match="no column 'scaner'; did you mean 'scanner'"):
        read_site(DataSource("a", path, partition=wrong), 0, grouped)


def _bad_manifest(site):
    path, images = site.manifest(), site.root / "images"
    (images / "p0.png").write_bytes(b"")
    (images / "p1.png").write_bytes(b"no picture")
    (images / "p2.png").write_bytes((images / "p3.png").read_bytes()[:-60])
    (images / "p4.png").unlink()
    Image.new("RGB", (40, 40)).save(images / "p5.png")
    lines = path.read_text().splitlines()
    lines[7] = "p6.png,square,A"
    lines[8] = "p7.png,,A"
    lines[9] = "p9.png,disc,A"  # stands twice
    path.write_text("\n".join(lines) + "\n")
    return path


BAD = {
    "zero_size": ("1 images are empty", "p0.png"),
    "unreadable": ("1 images cannot be read", "p1.png"),
    "truncated": ("1 images are cut off or damaged", "p2.png"),
    "missing": ("1 images are missing", "p4.png"),
    "too_large": ("1 images have too many pixels", "p5.png"),
    "unknown_class": ("1 objects are of a class", "'square' is not one of"),
    "bad_label": ("1 labels cannot be parsed", "p7.png"),
    "duplicate_name": ("1 names stand twice", "p9.png"),
}


def test_bad_pictures_are_refused_by_name_or_dropped_and_noted(site, schema_values):
    path = str(_bad_manifest(site))
    values = schema_values | {"max_pixels": 400}
    with pytest.raises(DataError) as refused:
        read_site(DataSource("a", path), 0, schema(values))
    data = read_site(DataSource("a", path), 0, schema(values, on_invalid="drop"))
    notes = "\n".join(data.notes)
    for counted, named in BAD.values():
        for text in (str(refused.value), notes):
            assert counted in text
            assert named in text
    assert data.num_train + data.num_holdout == 36 - 8
    kept = [note for note in data.notes if not str(note).startswith("left out")]
    assert len(kept) == 1
    assert "p8.png" in kept[0]  # its row names p9.png


def test_converted_pictures_are_noted_and_used(site, schema_values):
    path = site.folder() / "disc"
    Image.open(path / "p00.png").convert("P").save(path / "p00.png")
    Image.open(path / "p01.png").convert("CMYK").save(path / "p01.jpg")
    Image.fromarray(np.full((9, 7), 30000, np.uint16)).save(path / "p02.png")
    data = read_site(DataSource("a", str(site.root / "folder")), 0, schema(schema_values))
    assert {"palette", "CMYK", "16-bit"} <= set(" ".join(data.notes).replace(";", " ").split())
    assert data.num_train + data.num_holdout == 37


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: root / "nothing", "does not exist"),
        (lambda root: root, "no usable picture"),
    ],
)
def test_absent_and_empty_sources_are_named(tmp_path, schema_values, make, message):
    with pytest.raises(DataError, match=message):
        read_site(DataSource("a", str(make(tmp_path))), 0, schema(schema_values))


def test_whole_numbers_name_classes_by_place_only_if_they_name_none(tmp_path):
    pixels = np.arange(6 * 16, dtype=np.uint8).reshape(6, 4, 4)  # no two alike
    by_name = ImageSchema.from_mapping({"classes": ["2", "0", "1"]})
    by_place = ImageSchema.from_mapping({"classes": ["a", "b", "c"]})
    for name in "xy":
        labels = np.array([0, 1, 2, 0, 1, 2])
        np.savez(tmp_path / f"{name}.npz", images=pixels + 100 * (name == "y"), labels=labels)
    source = DataSource("a", str(tmp_path / "x.npz"), holdout=str(tmp_path / "y.npz"))
    assert read_site(source, 0, by_name).train.labels.tolist() == [1, 2, 0] * 2
    assert read_site(source, 0, by_place).train.labels.tolist() == [0, 1, 2] * 2


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"clases": []}, "no key 'clases'; did you mean 'classes'"),
        ({"classes": ["a"]}, "list at least 2"),
        ({"classes": ["1", "1.0"]}, "names a class twice"),
        ({"image_size": 2}, "image_size is 2"),
        ({"channels": 2}, "channels is 2; expected 1 or 3"),
        ({"resize": "squash"}, "expected pad or crop or stretch"),
        ({"normalise": {"mean": [0.5], "std": [0.5, 0.5, 0.5]}}, "expected 3 numbers each"),
        ({"normalise": {"mean": 0.5, "std": 0}}, "std above 0"),
        ({"normalise": "zscore"}, "expected pooled"),
        ({"augment": "flip"}, "expected a list"),
        ({"augment": [{"name": "Lambda"}]}, "'Lambda' is no transform here"),
        ({"augment": [{"name": "RandomRotation", "degree": 3}]}, "RandomRotation: .*degree"),
        ({"augment": [{"_target_": "os.system"}]}, "expected {name: RandomRotation"),
        ({"subgroups": {"x": {"class": "rng"}}}, "did you mean 'ring'"),
        ({"subgroups": {"x": {"min": 3}}}, "expected {class: X}"),
        ({"on_invalid": "ignore"}, "expected refuse or drop"),
    ],
)
def test_wrong_schemas_are_config_errors(schema_values, keys, message):
    with pytest.raises(ConfigError, match=message):
        ImageSchema.from_mapping(schema_values | keys)


def test_an_augmentation_must_keep_the_pictures_size(schema_values):
    crop = [{"name": "RandomCrop", "size": [8, 8]}]
    task = load_task("image_classification", schema_values | {"augment": crop})
    with pytest.raises(ConfigError, match="set its size to"):
        task.check(ModelSpec("simple_cnn"), TrainConfig())


@pytest.mark.parametrize("resize", ["pad", "crop", "stretch"])
def test_pictures_that_are_not_square_are_fitted(resize):
    picture = Image.new("RGB", (20, 10), (200, 200, 200))
    pixels = Geometry(10, 1, resize).pixels(picture)
    assert pixels.shape == (1, 10, 10)
    assert (pixels == 200).mean() == (0.5 if resize == "pad" else 1.0)


def _noise(index):
    values = np.random.default_rng(index).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return Image.fromarray(values)


def _many():
    def records(report):
        for index in range(10_000):
            image = GeneratedImage("many", index, 96, 96, _noise)
            yield RawPicture(image, str(index), "ab"[index % 2])

    return ImageDataset("many", "image_classification", ("a", "b"), records)


def test_ten_thousand_pictures_stream(monkeypatch):
    monkeypatch.setitem(image_sets._READERS, "many", f"{__name__}:_many")
    monkeypatch.setattr(
        image_sets, "import_module", lambda name: type("Here", (), {"_many": staticmethod(_many)})
    )
    values = {"classes": ["a", "b"], "image_size": 96, "normalise": "none"}
    task = load_task("image_classification", values)
    tracemalloc.start()
    try:
        data = task.read(DataSource("a", "dataset:many"), 0)
        fitted = task.prepare(task.fit(data, 1))
        model = task.build(ModelSpec("simple_cnn", {"channels": [2], "hidden": 2}), fitted, 0)
        config = TrainConfig(batch_size=64, local_steps=3)
        task.train(model, data, config, LocalObjective(), 0)
        loader = data.train.loader(model.preprocess.geometry)
        for _, _chunk in zip(range(3), loader.chunks(), strict=False):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    decoded = 10_000 * 96 * 96 * 3
    assert data.num_train + data.num_holdout == 10_000
    assert peak < decoded / 5
