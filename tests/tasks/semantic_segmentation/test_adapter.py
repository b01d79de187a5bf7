"""Training, losses, pooled scores, and masks written for predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fl_common.errors import ConfigError, DataError, SchemaError
from tasks.contract import DataSource, LocalObjective, ModelSpec, Partition, TrainConfig
from tasks.images.augment import IGNORED, Augment, parse_augmentations
from tasks.metrics import segmentation_stats
from tasks.registry import load_task
from tasks.semantic_segmentation.losses import dice_loss, segmentation_loss
from tasks.semantic_segmentation.masks import read_mask
from tasks.stats import Stats

from .conftest import scene

NONE = LocalObjective()
SMALL = ModelSpec("unet", {"channels": [8, 16]})


@pytest.fixture
def task(schema_values):
    return load_task("semantic_segmentation", schema_values)


def opened(task, path, num_sites=1, spec=SMALL):
    cuts = (Partition("iid", num_sites, i) for i in range(num_sites))
    sites = [task.read(DataSource("s", str(path), partition=cut), 0) for cut in cuts]
    fitted = task.prepare(Stats.total(task.fit(site, 1) for site in sites))
    return sites, fitted, task.build(spec, fitted, 0)


def test_pooled_scores_are_those_of_the_written_masks(task, site, tmp_path):
    sites, fitted, model = opened(task, site.write(), 3)
    for data in sites:
        task.train(model, data, TrainConfig("adam", 0.01, local_epochs=15), NONE, 0)
    card = task.finalise(Stats.total(task.evaluate(model, data) for data in sites), fitted)
    assert task.predict(model, site.root).write(tmp_path / "out") == f"16 masks: {tmp_path / 'out'}"
    held = [s.mask.path.stem for data in sites for s in data.holdout.scenes]
    pairs = [
        (scene(int(stem[1:]))[1], read_mask(tmp_path / "out" / f"{stem}.png", task.schema))
        for stem in held
    ]
    truth, found = (np.concatenate([pair[i].ravel() for pair in pairs]) for i in (0, 1))
    values = card.overall.values
    assert values["pixel_accuracy"] == (truth == found).mean() > 0.9
    ious = []
    for number, name in enumerate(fitted["classes"]):
        both = ((truth == number) & (found == number)).sum()
        ious.append(both / ((truth == number) | (found == number)).sum())
        assert values[f"iou_{name}"] == ious[-1]
    assert values["miou"] == pytest.approx(np.mean(ious))
    assert values["miou"] > 0.7
    blank = task.empty_stats(model)
    sent = task.evaluate(model, sites[0])
    assert {n: (a.shape, a.dtype) for n, a in blank.items()} == {
        n: (a.shape, a.dtype) for n, a in sent.items()
    }
    assert not any(array.any() for array in blank.values())


def test_one_site_federated_equals_a_plain_torch_loop_bit_for_bit(task, site):
    (data,), fitted, model = opened(task, site.write())
    config = TrainConfig("sgd", lr=0.05, momentum=0.9, batch_size=4, local_epochs=3)
    outcome = task.train(model, data, config, NONE, 5)
    other = task.build(SMALL, fitted, 0)
    module, geometry = other.module.train(), other.preprocess.geometry
    pictures, masks = data.train.loaders(geometry)
    everything = np.arange(data.num_train)
    inputs = other.preprocess.normalise(torch.from_numpy(pictures.batch(everything)))
    labels = torch.from_numpy(masks.batch(everything)[:, 0]).long()
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        for index in torch.randperm(data.num_train, generator=generator).split(4):
            optimizer.zero_grad()
            pixels = F.cross_entropy(
                module(inputs[index]), labels[index], ignore_index=IGNORED, reduction="none"
            )
            (pixels.sum() / (labels[index] != IGNORED).sum()).backward()
            optimizer.step()
    for name, parameter in module.named_parameters():
        np.testing.assert_array_equal(outcome.arrays[name], parameter.detach().numpy())


@pytest.mark.parametrize(
    "name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
)
def test_torchvision_models_train_one_row_and_score(schema_values, site, name):
    task = load_task("semantic_segmentation", schema_values | {"image_size": 32, "channels": 1})
    (data,), fitted, model = opened(task, site.write(), spec=ModelSpec(name))
    outcome = task.train(model, data, TrainConfig(batch_size=12), NONE, 0)
    assert outcome.num_steps == 2  # the last batch has one row
    card = task.finalise(task.evaluate(model, data), fitted)
    assert 0 <= card.overall.values["miou"] <= 1
    assert set(model.layer_kinds().values()) == {"norm", "head", "body"}


@pytest.mark.parametrize("name", ["fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101"])
def test_every_torchvision_network_is_known(task, name):
    task.check(ModelSpec(name), TrainConfig())


def test_masks_of_0_and_255_are_told_how_to_be_read(site, schema_values):
    path = site.write(lambda mask: (mask == 1).astype(np.uint8) * 255)
    two = schema_values | {"classes": ["ground", "square"]}
    with pytest.raises(SchemaError, match=r"usecase\.values={ground: 0, square: 255}"):
        opened(load_task("semantic_segmentation", two), path)
    named = two | {"values": {"ground": 0, "square": 255}}
    (data,), fitted, _ = opened(load_task("semantic_segmentation", named), path)
    assert min(fitted["class_counts"]) > 0
    assert data.num_train == 13


def test_masks_move_with_their_pictures_and_edges_lose_their_label():
    augment = parse_augmentations(
        [
            {"name": "RandomHorizontalFlip", "p": 1.0},
            {"name": "RandomAffine", "degrees": 0, "translate": [0.3, 0.3]},
            {"name": "ColorJitter", "brightness": 0.0},
        ]
    )
    mask = torch.from_numpy(scene(1)[1].copy())[None]
    moved, labels = Augment(augment, (1, 20, 24), masks=True).pairs(
        (mask * 100 + 50)[:, None], mask
    )
    known = labels != IGNORED
    assert 0 < known.float().mean() < 1
    assert torch.equal((labels * 100 + 50)[known], moved[:, 0][known])
    assert (moved[:, 0][~known] == 0).all()


def test_augmentations_that_know_no_masks_are_refused(schema_values):
    task = load_task("semantic_segmentation", schema_values | {"augment": [{"name": "AugMix"}]})
    with pytest.raises(ConfigError, match=r"usecase\.augment fails"):
        task.check(SMALL, TrainConfig())


def test_losses_leave_out_pixels_without_a_label():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    masks[0] = IGNORED
    for name in ("cross_entropy", "dice", "cross_entropy_dice"):
        loss = segmentation_loss(TrainConfig(loss=name), [1, 1, 1])
        assert loss(logits, masks).item() == pytest.approx(loss(logits[1:], masks[1:]).item())
        assert torch.isfinite(loss(logits[:1], masks[:1]))
    weighted = segmentation_loss(TrainConfig(class_weight="balanced"), [30, 10, 20])
    rows = F.cross_entropy(logits[1:], masks[1:], reduction="none")
    expected = (rows * torch.tensor([60 / 90, 60 / 30, 60 / 60])[masks[1:]]).mean()
    assert weighted(logits, masks).item() == pytest.approx(expected.item(), rel=1e-5)


def test_dice_loss_falls_to_nought_where_the_prediction_is_right():
    masks = torch.tensor([[[0, 1], [2, 2]]])
    right = 50.0 * F.one_hot(masks, 3).permute(0, 3, 1, 2).float()
    assert dice_loss(right, masks).item() == pytest.approx(0.0, abs=1e-6)
    assert dice_loss(-right, masks).item() > 0.5


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        (ModelSpec("unett"), {}, "did you mean 'unet'"),
        (ModelSpec("unet", {"channels": []}), {}, "expected widths"),
        (ModelSpec("unet", {"channels": [4] * 7}), {}, "cannot take pictures"),
        (SMALL, {"loss": "focal"}, "'focal' does not exist here"),
        (SMALL, {"class_weight": "yes"}, "train.class_weight"),
        (ModelSpec("unet", {"pretrained": "/no.pt"}), {}, "no such file"),
    ],
)
def test_wrong_choices_are_config_errors(task, spec, config, message):
    with pytest.raises(ConfigError, match=message):
        task.check(spec, TrainConfig(**config))


def test_predict_takes_any_folder_and_keeps_its_names_and_sizes(task, site, tmp_path):
    _, _, model = opened(task, site.write())
    folder = tmp_path / "new"
    (folder / "sub").mkdir(parents=True)
    for name, size in (("a.png", (50, 30)), ("a.bmp", (24, 20)), ("sub/b.jpg", (7, 31))):
        Image.fromarray(scene(0, (40, 40))[0]).resize(size).save(folder / name)
    found = task.predict(model, folder)
    assert len(found) == 3
    found.write(tmp_path / "out")
    written = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")}
    assert written == {"a.png.png", "a.bmp.png", "sub/b.png"}
    with Image.open(tmp_path / "out" / "a.png.png") as mask:
        assert (mask.mode, mask.size) == ("P", (50, 30))
        assert set(np.unique(np.asarray(mask))) <= {0, 1, 2}
    assert len(task.predict(model, folder / "a.png")) == 1
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        task.predict(model, tmp_path / "empty")


def test_large_pictures_are_scored_in_their_own_size(task, tmp_path):
    for number in range(4):
        picture, mask = scene(number, (90, 60))
        for folder, values in (("images", picture), ("masks", mask)):
            (tmp_path / "s" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(tmp_path / "s" / folder / f"{number}.png")
    (data,), _, model = opened(task, tmp_path / "s")
    stats = task.evaluate(model, data).below("overall")
    assert stats["confusion"].sum() == 90 * 60 * data.num_holdout
    assert stats["confusion"].max() <= task.counts_per_row * data.num_holdout
    empty = segmentation_stats(scene(0)[1], scene(0)[1], 3, 2)
    assert empty["boundary"][1].tolist() == [20] * 4  # the rim of a square of six
