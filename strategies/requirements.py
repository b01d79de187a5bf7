"""What a strategy asks of a run, checked at launch instead of failing round by round."""

from __future__ import annotations

from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy

from strategies.personal import select_layers
from tasks.contract import Model, Task, TrainConfig
from tasks.errors import ConfigError

SINGLE = (
    *(flower.FedMedian, flower.FedTrimmedAvg, flower.MultiKrum, flower.Bulyan, flower.QFedAvg),
    *(flower.FedXgbBagging, flower.FedXgbCyclic),
)


def needs_single_updates(strategy: Strategy) -> bool:
    """Say whether the rule must see each site's update: then the updates cannot be masked."""
    return isinstance(strategy, SINGLE) or bool(getattr(strategy, "needs_single_updates", False))


def check_training(strategy: Strategy, task: Task, train: TrainConfig) -> None:
    """Refuse a local training that the strategy's equations do not hold for.

    Raises
    ------
    ConfigError
        Naming the key and the cure.
    """
    name = type(strategy).__name__
    plain = getattr(strategy, "needs_plain_sgd", False)
    if (plain or getattr(strategy, "needs_sgd", False)) and train.optimizer != "sgd":
        raise ConfigError(f"{name} holds for SGD at the sites; set train.optimizer=sgd")
    if plain and train.momentum:
        raise ConfigError(f"{name} holds for SGD without momentum; set train.momentum=0")
    if getattr(strategy, "needs_calibration", False) and not getattr(
        task, "calibrates_logits", False
    ):
        raise ConfigError(f"{name} calibrates class logits, which this task does not have")


def check_layers(strategy: Strategy, model: Model) -> None:
    """Refuse a selection of local layers that this model does not have.

    Raises
    ------
    ConfigError
        Listing the model's weights.
    """
    selector = getattr(strategy, "layers", None)
    if isinstance(selector, str):
        select_layers(model, model.arrays(), selector)
