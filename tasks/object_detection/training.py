"""Local training of a detector, in the loop that every task shares.

The optimiser starts afresh in each round, as the strategies expect, and there is neither warm-up
nor an averaged copy of the weights (EMA): a warm-up in every round would spend a short round on
nothing, and an average over a few steps would return weights near those received.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fl_common.errors import ConfigError, DivergedError
from tasks.contract import LocalObjective, LocalOutcome, TrainConfig, child_seed
from tasks.networks.training import check_config, run_training
from tasks.object_detection.annotations import DetectionItem
from tasks.object_detection.augment import Loader
from tasks.object_detection.network import DetectionModel, frozen_statistics


def train_detector(
    model: DetectionModel,
    items: Sequence[DetectionItem],
    config: TrainConfig,
    *,
    objective: LocalObjective,
    seed: int,
) -> LocalOutcome:
    """Train ``model`` in place.

    ``seed`` decides the order of the pictures, every augmentation, and every sample that a
    network draws (the boxes on which Faster R-CNN is trained).

    Raises
    ------
    ConfigError, DivergedError, ReplyError
        As ``torch_training.run_training``.
    """
    check_training(config)
    schema, network = model.schema, model.network
    rng = np.random.default_rng(child_seed(seed, "pictures"))
    loader = Loader(items, schema.image_size, model.augment, rng, keep_ratio=schema.keeps_ratio)

    def batch_loss(index: torch.Tensor) -> torch.Tensor:
        images, targets = loader.batch(index.tolist())
        try:
            if len(targets) == 1 and network.single_value_maps:  # one value has no variance
                with frozen_statistics(network.module):
                    return model.loss(images, targets)
            return model.loss(images, targets)
        except (RuntimeError, IndexError, ValueError, AssertionError) as error:
            if _is_healthy(model, images):
                raise
            raise DivergedError(
                "training diverged: the network's outputs are not finite; lower train.lr or set "
                "train.grad_clip"
            ) from error

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return run_training(
            model,
            len(items),
            batch_loss,
            config,
            objective=objective,
            generator=torch.Generator().manual_seed(seed),
        )


def check_training(config: TrainConfig) -> None:
    """Check the optimiser, the loss and the numbers.

    Raises
    ------
    ConfigError
        Naming the key and what it may be.
    """
    check_config(config)
    if config.loss != "auto":
        raise ConfigError(
            f"train.loss is '{config.loss}'; a detector brings its own loss, expected auto"
        )
    if config.class_weight != "none":
        raise ConfigError(f"train.class_weight is '{config.class_weight}'; expected none")


def _is_healthy(model: DetectionModel, images: torch.Tensor) -> bool:
    """Say whether weights and outputs are numbers, so that an error has another cause."""
    if not model.is_finite():
        return False
    model.module.eval()
    try:
        with torch.no_grad():
            model.detect_squares(images)
    except DivergedError:
        return False
    finally:
        model.module.train()
    return True
