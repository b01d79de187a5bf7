"""Networks by name, and the model object that is reused across messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_common.errors import ConfigError, ReplyError
from fl_common.plugins import plugin_names
from fl_common.words import suggest
from tasks.contract import Arrays, ModelSpec
from tasks.networks.custom import MAX_PARAMETERS, TensorSpec, build_module, find_builder
from tasks.networks.layers import layer_kinds, named_statistics, use_running_statistics
from tasks.networks.shapes import require_shape
from tasks.tabular.encode import Encoder

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
}
MAX_WIDTH = 2**16


class Dropout(nn.Module):
    """Dropout that draws from its own generator, so that the global one is left alone."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Zero a share of the inputs (b, h) while training; scale up the others."""
        if not self.training:
            return inputs
        draw = torch.rand(inputs.shape, generator=self.generator)
        return inputs * (draw >= self.probability) / (1.0 - self.probability)


class TabularModel:
    """A network with its preprocessing (``contract.Model``).

    Weights are float32 and live on the CPU; ``arrays`` and ``load`` copy straight to and from
    their memory. What travels beside the weights are the running statistics of a network of the
    user's.

    Parameters
    ----------
    is_custom : bool
        Whether the module is the user's, which may draw from PyTorch's global generator.
    """

    def __init__(self, module: nn.Module, encoder: Encoder, *, is_custom: bool = False) -> None:
        self.module = module
        self.encoder = encoder
        self.is_custom = is_custom
        statistics = {name: buffer.numpy() for name, buffer in named_statistics(module)}
        self.trains_privately = not statistics
        self._has_statistics = bool(statistics)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.views: Arrays = {n: p.detach().numpy() for n, p in module.named_parameters()}
        self.views |= statistics
        self.dropouts = [m for m in module.modules() if isinstance(m, Dropout)]

    def arrays(self) -> Arrays:
        """Return the weights by name (copies, float32)."""
        return {name: view.copy() for name, view in self.views.items()}

    def load(self, arrays: Arrays) -> None:
        """Set the weights.

        Raises
        ------
        ReplyError
            If a name, shape or dtype differs.
        """
        self.check(arrays)
        for name, view in self.views.items():
            np.copyto(view, arrays[name])

    def layer_kinds(self) -> dict[str, str]:
        """Return each weight's kind: ``norm``, ``head`` or ``body``."""
        kinds = layer_kinds(self.module)
        return {name: kinds[name] for name in self.views}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the module in training; one row alone is normalised as in evaluation."""
        alone = len(inputs) == 1 and self._has_statistics
        if alone:
            use_running_statistics(self.module)
        try:
            outputs: torch.Tensor = self.module(inputs)
        finally:
            if alone:
                self.module.train()
        return outputs

    def outputs(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Return the network's outputs for (n, d) inputs, shape (n, k), float32."""
        with torch.no_grad():
            return np.asarray(self.module(inputs).numpy())

    def attributions(self, inputs: torch.Tensor) -> NDArray[np.float64]:
        """Sum |gradient x input| of the predicted class's logit (or the prediction), shape (d,)."""
        leaf = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.module(leaf).amax(dim=1).sum(), leaf)
        return np.asarray((gradient * inputs).abs().sum(dim=0, dtype=torch.float64).numpy())

    def check(self, arrays: Arrays) -> None:
        """Raise ReplyError unless names, shapes and dtypes are those of the weights."""
        if arrays.keys() != self.views.keys():
            raise ReplyError(
                f"weights are named {sorted(arrays)}, expected {sorted(self.views)}; "
                "use the architecture and columns of the use case"
            )
        for name, view in self.views.items():
            require_shape(name, arrays[name], view.shape, view.dtype)


def build_model(spec: ModelSpec, encoder: Encoder, seed: int) -> TabularModel:
    """Return a freshly initialised model, the same for the same seed.

    Raises
    ------
    ConfigError
        If the architecture or a parameter does not exist, or a value does not fit.
    """
    known = [*_BUILDERS, "xgboost"]
    if (custom := find_builder(spec.name, known)) is not None:
        features = tuple(encoder.feature_names)
        inputs = TensorSpec((len(features),), features)
        outputs = TensorSpec((encoder.num_outputs,), tuple(encoder.classes))
        module = build_module(custom, spec, inputs, outputs, seed)
        return TabularModel(module, encoder, is_custom=True)
    if spec.name not in _BUILDERS:
        known += plugin_names("models")
        raise ConfigError(f"model '{spec.name}' does not exist{suggest(spec.name, known)}")
    build, defaults = _BUILDERS[spec.name]
    for key in spec.params:
        if key not in defaults:
            raise ConfigError(
                f"model '{spec.name}' has no parameter '{key}'{suggest(key, defaults)}"
            )
    sizes = (len(encoder.feature_names), encoder.num_outputs)
    with torch.device("meta"):  # no memory yet
        sketch = build(*sizes, {**defaults, **spec.params})
    count = sum(parameter.numel() for parameter in sketch.parameters())
    if count > MAX_PARAMETERS:
        raise ConfigError(
            f"model '{spec.name}' with {dict(spec.params)} has {count:,} weights; "
            f"at most {MAX_PARAMETERS:,} are allowed"
        )
    with torch.random.fork_rng(devices=[]):  # layers draw from the global generator when made
        module = build(*sizes, {**defaults, **spec.params})
    _initialise(module, seed, zeros=spec.params.get("init") == "zeros")
    module.eval()
    return TabularModel(module, encoder)


def _initialise(module: nn.Module, seed: int, *, zeros: bool) -> None:
    """Draw PyTorch's default weights (uniform within 1/sqrt(inputs)) from an own generator."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.LayerNorm):
                layer.reset_parameters()
            elif isinstance(layer, nn.Linear):
                bound = 0.0 if zeros else layer.in_features**-0.5
                for parameter in (layer.weight, layer.bias):
                    parameter.uniform_(-bound, bound, generator=generator)
                    if zeros:
                        parameter.zero_()


def _linear(inputs: int, outputs: int, params: Mapping[str, Any]) -> nn.Sequential:
    if params["init"] not in ("default", "zeros"):
        raise ConfigError(
            f"model.params.init is {params['init']!r}{suggest(str(params['init']), _INITS)}"
        )
    return nn.Sequential(nn.Linear(inputs, outputs))


class TwoLogits(nn.Module):
    """One logit z as the two of a softmax, -z/2 and z/2: cross-entropy is that of sigmoid(z)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Turn (b, 1) into (b, 2)."""
        return torch.cat([-inputs, inputs], dim=1) / 2


def _logistic(inputs: int, outputs: int, params: Mapping[str, Any]) -> nn.Module:
    if outputs != 2:
        raise ConfigError("model 'logistic' is for two classes; set model=linear")
    return nn.Sequential(*_linear(inputs, 1, params), TwoLogits())


def _mlp(inputs: int, outputs: int, params: Mapping[str, Any]) -> nn.Module:
    hidden, dropout, activation = params["hidden"], params["dropout"], params["activation"]
    if activation not in _ACTIVATIONS:
        near = suggest(str(activation), _ACTIVATIONS)
        raise ConfigError(f"model.params.activation is {activation!r}{near}")
    if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise ConfigError(f"model.params.dropout is {dropout!r}; expected from 0 to below 1")
    if not isinstance(params["layer_norm"], bool):
        raise ConfigError(f"model.params.layer_norm is {params['layer_norm']!r}; expected a bool")
    layers: list[nn.Module] = []
    width = inputs
    for size in _widths(hidden):
        layers.append(nn.Linear(width, size))
        if params["layer_norm"]:
            layers.append(nn.LayerNorm(size))
        layers.append(_ACTIVATIONS[activation]())
        if dropout:
            layers.append(Dropout(float(dropout)))
        width = size
    layers.append(nn.Linear(width, outputs))
    return nn.Sequential(*layers)


def _widths(hidden: Any) -> list[int]:
    sizes = [hidden] if isinstance(hidden, int) else list(hidden) if _is_list(hidden) else [0]
    if not all(type(size) is int and 0 < size <= MAX_WIDTH for size in sizes):
        raise ConfigError(
            f"model.params.hidden is {hidden!r}; expected widths from 1 to {MAX_WIDTH}, as [64, 32]"
        )
    return sizes


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


_INITS = ("default", "zeros")
_Builder = Callable[[int, int, Mapping[str, Any]], nn.Module]
_BUILDERS: dict[str, tuple[_Builder, dict[str, Any]]] = {
    "linear": (_linear, {"init": "default"}),
    "logistic": (_logistic, {"init": "default"}),
    "mlp": (
        _mlp,
        {"hidden": [64, 32], "dropout": 0.0, "activation": "relu", "layer_norm": False},
    ),
}
