"""Training, scores, models, weights files and predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from torch.nn import functional as F

from fl_common.errors import ConfigError, DataError, SchemaError
from fl_server.config.compose import compose_overrides
from fl_server.runtimes.launch import launch
from strategies.accumulator import WeightedMean
from strategies.personal import select_layers
from tasks.contract import DataSource, LocalObjective, ModelSpec, Partition, TrainConfig
from tasks.images.weights import start_from_file
from tasks.registry import load_task
from tasks.stats import Stats

NONE = LocalObjective()
SMALL = {"channels": [4, 8], "hidden": 16}


@pytest.fixture
def task(schema_values):
    return load_task("image_classification", schema_values)


def opened(task, path, num_sites=1, spec=None):
    cuts = (Partition("iid", num_sites, i) for i in range(num_sites))
    sites = [task.read(DataSource("s", str(path), partition=cut), 0) for cut in cuts]
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    return sites, fitted, task.build(spec or ModelSpec("simple_cnn", SMALL), fitted, 0)


def test_pooled_mean_and_spread_equal_those_of_the_pooled_pixels(task, site):
    sites, fitted, _ = opened(task, site.npz(), 3)
    kept = [p.image_ref.load() for s in sites for p in s.train.pictures]
    pixels = np.stack([np.asarray(picture) for picture in kept]) / 255.0
    np.testing.assert_allclose(fitted["mean"], pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(fitted["std"], pixels.std(axis=(0, 1, 2)), rtol=1e-10)
    assert sum(fitted["class_counts"]) == len(pixels) == fitted["num_rows"]


def test_one_class_everywhere_is_refused(task, tmp_path):
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / "x.npz", images=images, labels=np.zeros(4))
    data = task.read(DataSource("a", str(tmp_path / "x.npz")), 0)
    assert data.notes == ["the training pictures have one class only: 'disc'"]
    with pytest.raises(SchemaError, match="is of class 'disc'"):
        task.prepare(task.fit(data, 1))


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_one_site_federated_equals_a_plain_torch_loop_bit_for_bit(task, site, norm):
    spec = ModelSpec("simple_cnn", SMALL | {"norm": norm, "dropout": 0.2})
    (data,), fitted, model = opened(task, site.npz(), 1, spec)
    config = TrainConfig("adam", lr=0.01, batch_size=8, local_epochs=2)
    module = task.build(spec, fitted, 0).module.train()
    labels = torch.from_numpy(data.train.labels)
    pixels = np.stack([np.asarray(p.image_ref.load()) for p in data.train.pictures])
    mean, std = (np.array(fitted[k])[:, None, None] for k in ("mean", "std"))
    inputs = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().float()
    scale, shift = (torch.from_numpy(a.astype(np.float32)) for a in (1 / (255 * std), mean / std))
    inputs = inputs * scale - shift
    arrays = model.arrays()
    for round_number in range(3):
        model.load(arrays)
        outcome = task.train(model, data, config, NONE, round_number)
        mean_model = WeightedMean()
        mean_model.add(outcome.arrays, outcome.num_examples)
        arrays = mean_model.result()
        torch.manual_seed(round_number)
        generator = torch.Generator().manual_seed(round_number)
        optimizer = torch.optim.Adam(module.parameters(), 0.01)
        for _ in range(2):
            for index in torch.randperm(len(labels), generator=generator).split(8):
                optimizer.zero_grad()
                F.cross_entropy(module(inputs[index]), labels[index]).backward()
                optimizer.step()
    plain = module.state_dict()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, plain[name].numpy(), err_msg=name)


def test_pooled_scores_equal_scikit_learn_on_the_pooled_pictures(schema_values, site, tmp_path):
    subgroups = {"b": {"column": "scanner", "values": ["B"]}}
    task = load_task("image_classification", schema_values | {"subgroups": subgroups})
    sites, fitted, model = opened(task, site.manifest(), 3)
    for data in sites:
        task.train(model, data, TrainConfig("adam", 0.01, local_epochs=8), NONE, 0)
    card = task.finalise(Stats.total(task.evaluate(model, data) for data in sites), fitted)
    table = task.predict(model, site.root / "labels.csv").set_index("data_id")
    held = [p for data in sites for p in data.holdout.pictures]
    truth = np.array([p.label for p in held])
    rows = table.loc[[p.name for p in held]]
    scores = rows[[f"proba_{c}" for c in fitted["classes"]]].to_numpy()
    predicted = scores.argmax(axis=1)
    assert [fitted["classes"][i] for i in predicted] == rows["prediction"].tolist()

    def same(found, member):
        true, guess, share = truth[member], predicted[member], scores[member]
        assert found["accuracy"] == accuracy_score(true, guess)
        assert found["f1_macro"] == pytest.approx(f1_score(true, guess, average="macro"))
        assert found["log_loss"] == pytest.approx(log_loss(true, share, labels=[0, 1, 2]))

    same(card.overall.values, np.ones(len(truth), bool))
    same(card.subgroups["b"].values, np.array([p.groups["scanner"] == "B" for p in held]))
    exact = roc_auc_score(truth, scores, multi_class="ovr")
    assert abs(card.overall.values["auc_roc"] - exact) <= card.overall.bounds["auc_roc"] + 1e-9


def test_augmentation_changes_training_only_and_travels_with_the_model(schema_values, site):
    flip = [{"name": "RandomVerticalFlip", "p": 1.0}]
    plain, turned = (
        load_task("image_classification", schema_values | {"augment": a}) for a in ([], flip)
    )
    (data,), fitted, model = opened(turned, site.npz())
    assert fitted["augment"] == flip
    same = plain.build(ModelSpec("simple_cnn", SMALL), {**fitted, "augment": []}, 0)
    for name, array in plain.evaluate(same, data).items():
        np.testing.assert_array_equal(array, turned.evaluate(model, data)[name])
    config = TrainConfig(local_steps=1)
    before = torch.get_rng_state()
    ours = turned.train(model, data, config, NONE, 0).loss
    assert ours != plain.train(same, data, config, NONE, 0).loss
    assert torch.equal(before, torch.get_rng_state())


def test_predict_reads_every_format_and_needs_no_label(task, site, tmp_path):
    _, _, model = opened(task, site.npz())
    tables = [task.predict(model, p) for p in (site.folder(), site.manifest(), site.npz())]
    for table in tables:
        assert list(table.columns)[:2] == ["data_id", "prediction"]
        np.testing.assert_allclose(table.filter(like="proba_").sum(axis=1), 1)
        assert len(table) == 36
    single = task.predict(model, site.root / "images" / "p0.png")
    np.testing.assert_allclose(
        single["proba_disc"][0], tables[1].set_index("data_id")["proba_disc"]["p0.png"]
    )
    (tmp_path / "ids.csv").write_text("data_id\nsite/images/p3\n")
    assert task.predict(model, tmp_path / "ids.csv")["data_id"].tolist() == ["site/images/p3"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        task.predict(model, tmp_path / "empty")


ARCHITECTURES = ("resnet18", "mobilenet_v3_small", "efficientnet_b0", "vit_b_32", "googlenet")


@pytest.mark.parametrize("name", ARCHITECTURES[:3])
@pytest.mark.parametrize("channels", [1, 3])
def test_torchvision_models_take_the_use_cases_classes_and_channels(
    schema_values, site, name, channels
):
    values = schema_values | {"image_size": 32, "channels": channels, "resize": "stretch"}
    task = load_task("image_classification", values)
    (data,), _, model = opened(task, site.npz(), spec=ModelSpec(name))
    arrays = model.arrays()
    assert all(array.dtype == np.float32 for array in arrays.values())
    assert not any("num_batches" in n for n in arrays)
    outcome = task.train(model, data, TrainConfig(batch_size=28, local_epochs=1), NONE, 0)
    assert outcome.num_steps == 2  # the last batch has one row, and batch normalisation copes
    assert any((outcome.arrays[n] != a).any() for n, a in arrays.items() if "running" in n)
    kinds = model.layer_kinds()
    assert {"norm", "head", "body"} == set(kinds.values())
    local = select_layers(model, arrays, "kind:norm")
    assert {n for n in arrays if "running" in n} <= set(local)


@pytest.mark.parametrize("name", ["vit_b_32", "googlenet", "squeezenet1_1"])
def test_other_architectures_by_name(schema_values, name):
    task = load_task("image_classification", schema_values | {"image_size": 64})
    task.check(ModelSpec("torchvision_classifier", {"architecture": name}), TrainConfig())


def test_frozen_norms_keep_their_statistics_and_scale(task, site):
    spec = ModelSpec("simple_cnn", SMALL | {"norm": "frozen"})
    (data,), _, model = opened(task, site.npz(), spec=spec)
    before = model.arrays()
    after = task.train(model, data, TrainConfig(), NONE, 0).arrays
    kinds = model.layer_kinds()
    changed = {kinds[n] for n, array in after.items() if (array != before[n]).any()}
    assert changed == {"body", "head"}


def test_weights_of_another_head_start_the_body(task, site, tmp_path):
    spec = ModelSpec("resnet18")
    _, fitted, model = opened(task, site.npz(), spec=spec)
    other = task.build(spec, {**fitted, "classes": list("abcdefg")}, 9).module
    state = {k: v + 0 for k, v in other.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    fresh = model.arrays()
    for name in ("w.safetensors", "w.pt"):
        model.load(fresh)
        task.start(model, ModelSpec("resnet18", {"pretrained": str(tmp_path / name)}))
        arrays = model.arrays()
        np.testing.assert_array_equal(arrays["conv1.weight"], state["conv1.weight"].numpy())
        np.testing.assert_array_equal(arrays["fc.weight"], fresh["fc.weight"])


def test_a_first_layer_for_colour_is_summed_for_grey(schema_values, site, tmp_path):
    task = load_task("image_classification", schema_values | {"channels": 1})
    _, fitted, model = opened(task, site.npz(), spec=ModelSpec("resnet18"))
    colour = task.build(
        ModelSpec("resnet18"), {**fitted, "channels": 3, "mean": [0] * 3, "std": [1] * 3}, 1
    )
    torch.save(colour.module.state_dict(), tmp_path / "w.pt")
    start_from_file(model, ModelSpec("resnet18", {"pretrained": str(tmp_path / "w.pt")}))
    first = colour.arrays()["conv1.weight"].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.arrays()["conv1.weight"], first, rtol=1e-5, atol=1e-6)


def test_weights_files_are_checked_before_any_site_is_asked(task, tmp_path):
    class Evil:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "bad.safetensors").write_bytes(b"xxxx")
    for name, message in (
        ("absent.pt", "no such file"),
        ("other.pt", "of the same architecture"),
        ("evil.pt", "is not read"),
        ("bad.safetensors", "is damaged"),
    ):
        spec = ModelSpec("simple_cnn", {"pretrained": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=message):
            task.check(spec, TrainConfig())
        # a site builds without the organiser's file
    fitted = {"classes": ["a", "b"], "class_counts": [1, 1], "image_size": 8, "channels": 1}
    fitted |= {"resize": "pad", "mean": [0.0], "std": [1.0], "augment": []}
    task.build(ModelSpec("simple_cnn", {"pretrained": "/absent.pt"}), fitted, 0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("resnet81"), "did you mean 'resnet18'"),
        (ModelSpec("torchvision_classifier", {"architecture": "resnt18"}), "did you mean"),
        (ModelSpec("simple_cnn", {"channels": [0]}), "expected widths"),
        (ModelSpec("simple_cnn", {"dropout": 1}), "from 0 to below 1"),
        (ModelSpec("simple_cnn", {"norm": "layer"}), "norm is 'layer'"),
        (ModelSpec("simple_cnn", {"pretrained": 3}), "expected a file"),
        (ModelSpec("squeezenet1_1"), "cannot take pictures of 3 x 16 x 16"),
        (ModelSpec("vit_b_32"), "cannot be made"),
    ],
)
def test_wrong_models_are_config_errors(task, spec, message):
    with pytest.raises(ConfigError, match=message):
        task.check(spec, TrainConfig())


@pytest.mark.slow
def test_ten_sites_read_digits(tmp_path):
    config = compose_overrides(["usecase=digits", "board.url=null"], tmp_path / "run")
    outcome = launch(config)
    assert outcome.rounds[-1].card.overall.values["accuracy"] > 0.95
