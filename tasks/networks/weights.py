"""A PyTorch module's tensors that travel, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from tasks.contract import Arrays
from tasks.networks.shapes import require_names, require_shape

FLOAT32 = np.dtype(np.float32)


class ExchangedWeights:
    """Weights and running statistics under ``contract.Model``'s methods; all are float32.

    Parameters
    ----------
    state : mapping of name to tensor
        The module's own, detached: loading writes into them.
    """

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        self._state = dict(state)

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
            require_shape(name, arrays[name], tuple(tensor.shape), FLOAT32)

    def is_finite(self) -> bool:
        """Say whether every weight is a number."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self._state.values())


def default_device() -> torch.device:
    """Return the GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
