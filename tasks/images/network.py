"""An image network as the federation sees it: weights and running statistics by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fl_common.errors import ConfigError
from tasks.networks.layers import layer_kinds, named_statistics, use_running_statistics
from tasks.networks.weights import ExchangedWeights, default_device


class ImageNetwork(ExchangedWeights):
    """A PyTorch module whose state travels (``contract.Model``, ``contract.LayeredModel``).

    What travels is float32: every parameter, those that are frozen too, and the running
    statistics of batch normalisation; counters of batches do not. It lives on the GPU where there
    is one.
    """

    def __init__(self, module: nn.Module, device: torch.device | None = None) -> None:
        self.device = device or default_device()
        self.module = module.to(self.device)
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        statistics = dict(named_statistics(module))
        super().__init__({n: p.detach() for n, p in module.named_parameters()} | statistics)
        self._has_statistics = bool(statistics)
        self.module.eval()

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
