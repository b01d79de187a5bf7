"""An image network as the federation sees it: weights and running statistics by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from tasks.contract import Arrays
from tasks.errors import ConfigError
from tasks.images.norms import named_statistics, use_running_statistics
from tasks.torch_layers import layer_kinds
from tasks.weight_forms import require_form, require_names

FLOAT32 = np.dtype(np.float32)


class ImageNetwork:
    """A PyTorch module whose state travels (``contract.Model``, ``contract.LayeredModel``).

    What travels is float32: every parameter, those that are frozen too, and the running
    statistics of batch normalisation; counters of batches do not. It lives on the GPU where there
    is one.
    """

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module = module.to(self.device)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self._state: dict[str, torch.Tensor] = {
            name: parameter.detach() for name, parameter in module.named_parameters()
        } | dict(named_statistics(module))
        self._has_statistics = any(True for _ in named_statistics(module))
        self.module.eval()

    def arrays(self) -> Arrays:
        """Return the weights by name (copies, float32)."""
        return {name: np.array(tensor.cpu().numpy()) for name, tensor in self._state.items()}

    def load(self, arrays: Arrays) -> None:
        """Set the weights.

        Raises
        ------
        ReplyError
            If a name, shape or dtype differs.
        """
        self.check(arrays)
        for name, tensor in self._state.items():
            tensor.copy_(torch.tensor(arrays[name]))

    def check(self, arrays: Arrays) -> None:
        """Raise ReplyError unless names, shapes and dtypes are those of the weights."""
        require_names(arrays, self._state)
        for name, tensor in self._state.items():
            require_form(name, arrays[name], tuple(tensor.shape), FLOAT32)

    def layer_kinds(self) -> dict[str, str]:
        """Return each weight's kind: ``norm``, ``head`` or ``body``."""
        kinds = layer_kinds(self.module)
        return {name: kinds[name] for name in self._state}

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Run the module; in training, a batch of one row is normalised as in evaluation."""
        alone = self.module.training and len(inputs) == 1 and self._has_statistics
        if alone:
            use_running_statistics(self.module)
        try:
            found = self.module(inputs.to(self.device))
        finally:
            if alone:
                self.module.train()
        outputs: torch.Tensor = found["out"] if isinstance(found, Mapping) else found
        return outputs


def require_input(network: ImageNetwork, shape: tuple[int, int, int], what: str) -> None:
    """Run one blank picture (c, h, w) through a network.

    Raises
    ------
    ConfigError
        If the network cannot take pictures of this size.
    """
    try:
        with torch.no_grad():
            network.forward(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(
            f"model {what} cannot take pictures of {shape[0]} x {shape[1]} x {shape[2]}; raise "
            f"usecase.image_size ({reason})"
        ) from None
