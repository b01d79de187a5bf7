"""Coordinate-wise median, both updates.

Yin, Chen, Ramchandran, Bartlett: "Byzantine-Robust Distributed Learning: Towards Optimal
Statistical Rates", ICML 2018 (arXiv:1803.01498), Algorithm 1, option I::

    w[j] <- median_k w_k[j]

Sites count equally, whatever number of examples they claim.
"""

from __future__ import annotations

from typing import ClassVar

from flwr.serverapp import strategy as flower

from strategies.fedavg import local_update

__all__ = ["FedMedian", "local_update"]


class FedMedian(flower.FedMedian):
    """Flower's FedMedian; it is the paper's. Holds every reply."""

    client_update: ClassVar[str] = "fedavg"
