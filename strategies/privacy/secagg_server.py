"""Secure aggregation, the server's side: it passes sealed shares on, adds, and takes masks off.

Stages as in ``strategies.privacy.secagg``. Whoever drops out before stage 2 is in no mask; whoever
drops out after it has sent its masked vector is in the sum; in between, its masks are rebuilt from
its group's shares. Memory is one vector.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence

import numpy as np

from fl_common.errors import ReplyError
from strategies.privacy.fixed_point import Words
from strategies.privacy.masking import (
    SCALAR_BYTES,
    SEED_BYTES,
    agree,
    mask,
    pair_seed,
    public_of,
    restore,
    same,
)
from strategies.privacy.modes import SecureAggregation


class MaskedSum:
    """Add the masked vectors of some sites.

    Parameters
    ----------
    mode : SecureAggregation
    size : int
        Length of the vectors.

    Attributes
    ----------
    survivors : set of int
        The nodes whose vectors are in the sum.
    """

    def __init__(self, mode: SecureAggregation, size: int) -> None:
        self._mode = mode
        self.size = size
        self._publics: dict[int, tuple[bytes, bytes]] = {}
        self._groups: dict[int, list[int]] = {}
        self._sealed: dict[int, dict[int, bytes]] = {}
        self._shared: set[int] = set()
        self._total: Words = np.zeros(size, np.uint64)
        self._shares: dict[int, list[bytes]] = {}
        self.survivors: set[int] = set()

    @property
    def num_sites(self) -> int:
        """How many sites sent keys: no more vectors than that are added."""
        return len(self._publics)

    def add_keys(self, node: int, mask_public: bytes, seal_public: bytes) -> None:
        """Take a site's public keys (stage 0)."""
        self._publics[node] = (mask_public, seal_public)

    def form_groups(self, rng: random.Random) -> None:
        """Place the sites on a ring in random order; a group is a site and its neighbours.

        Raises
        ------
        ReplyError
            If there are fewer than ``min_sites``.
        """
        nodes = sorted(self._publics)
        if len(nodes) < self._mode.min_sites:
            raise ReplyError(
                f"{len(nodes)} of {self._mode.min_sites} sites are there (privacy.min_sites)"
            )
        rng.shuffle(nodes)
        wanted = self._mode.num_neighbours
        reach = len(nodes) if wanted is None else math.ceil(wanted / 2)
        if 2 * reach + 1 >= len(nodes):
            self._groups = {node: sorted(nodes) for node in nodes}
            return
        self._groups = {
            node: sorted(nodes[(place + step) % len(nodes)] for step in range(-reach, reach + 1))
            for place, node in enumerate(nodes)
        }

    def group(self, node: int) -> tuple[list[int], list[bytes], list[bytes], int]:
        """Return a site's group, their two public keys each, and the threshold (stage 1)."""
        nodes = self._groups[node]
        keys = [self._publics[peer] for peer in nodes]
        return nodes, [k[0] for k in keys], [k[1] for k in keys], self._threshold(node)

    def add_shares(self, node: int, targets: Sequence[int], sealed_shares: Sequence[bytes]) -> None:
        """Take a site's sealed shares (stage 1).

        Raises
        ------
        ReplyError
            If they are not one for each other site of the group.
        """
        if sorted(targets) != [n for n in self._groups[node] if n != node] or len(targets) != len(
            sealed_shares
        ):
            raise ReplyError("the sealed shares are not one for each other site of the group")
        self._sealed[node] = dict(zip(targets, sealed_shares, strict=True))
        self._shared.add(node)

    def sealed_shares_for(self, node: int) -> tuple[list[int], list[bytes]]:
        """Return who sealed shares for a site, and the shares (stage 2)."""
        sources = [peer for peer in self._groups[node] if peer != node and peer in self._shared]
        return sources, [self._sealed[peer][node] for peer in sources]

    def add_masked(self, node: int, words: Words) -> None:
        """Add a site's masked vector (stage 2)."""
        self._total = self._total + words
        self.survivors.add(node)

    def status(self, node: int) -> tuple[list[int], list[int]]:
        """Return who of a site's group is in the sum, and who dropped out of it (stage 3)."""
        group = [peer for peer in self._groups[node] if peer in self._shared]
        survivors = [peer for peer in group if peer in self.survivors]
        return survivors, [peer for peer in group if peer not in self.survivors]

    def add_unmasking(self, node: int, shares: Sequence[bytes]) -> None:
        """Take a site's shares of the others' secrets (stage 3).

        Raises
        ------
        ReplyError
            If they are not one for each site that was asked about.
        """
        survivors, dropped = self.status(node)
        owners = [*survivors, *dropped]
        if len(owners) != len(shares):
            raise ReplyError("the shares are not one for each site that was asked about")
        for owner, share in zip(owners, shares, strict=True):
            self._shares.setdefault(owner, []).append(share)

    def check(self, alive: Iterable[int]) -> None:
        """Require that every group still reaches its threshold.

        Raises
        ------
        ReplyError
            If one does not: the sum could not be unmasked.
        """
        alive = set(alive)
        for node in alive:
            left, wanted = len(alive & set(self._groups[node])), self._threshold(node)
            if left < wanted:
                raise ReplyError(
                    f"too many sites dropped out: {left} of the {wanted} that a masked sum needs"
                )
        if not alive:
            raise ReplyError("every site dropped out of the masked sum")

    def result(self) -> Words:
        """Take the masks off.

        Raises
        ------
        ReplyError
            If too few shares arrived, or they are wrong.
        """
        total = self._total
        for node in sorted(self._shared):
            if node in self.survivors:
                total = total - mask(self._secret(node, SEED_BYTES), self.size)
                continue
            if not self.survivors & set(self._groups[node]):
                continue  # nobody in the sum shares a mask with it
            key = self._secret(node, SCALAR_BYTES)
            if not same(public_of(key), self._publics[node][0]):
                raise ReplyError("the shares of a dropped site's key are wrong")
            for peer in self._groups[node]:
                if peer != node and peer in self.survivors:
                    pad = mask(pair_seed(agree(key, self._publics[peer][0])), self.size)
                    total = total - pad if peer > node else total + pad
        return total

    def _secret(self, node: int, size: int) -> bytes:
        shares, wanted = self._shares.get(node, []), self._threshold(node)
        if len(shares) < wanted:
            raise ReplyError(f"{len(shares)} of {wanted} shares arrived; the sum stays masked")
        return restore(shares[:wanted], size)

    def _threshold(self, node: int) -> int:
        size = len(self._groups[node])
        share = math.ceil(self._mode.threshold * size - 1e-9)
        return min(max(share, size // 2 + 1, self._mode.min_sites), size)
