"""How often private training looks at the data: what the accountant needs, without torch."""

from __future__ import annotations

import math

from tasks.contract import TrainConfig


def private_steps(num_examples: int, config: TrainConfig) -> tuple[float, int]:
    """Return the sampling rate q and the number of steps of one training; both are public.

    An epoch is as many steps as it takes to draw ``num_examples`` in expectation.
    """
    batch = min(config.batch_size, num_examples)
    steps = config.local_epochs * math.ceil(num_examples / batch)
    return batch / num_examples, steps if config.local_steps is None else config.local_steps
