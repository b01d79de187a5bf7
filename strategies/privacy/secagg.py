"""Secure aggregation, the site's side: what it keeps, and what it does in each of four stages.

Bonawitz et al.: "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017;
Bell, Bonawitz, Gascon, Lepoint, Raykova: "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead", CCS 2020 (masks are shared with a group of other sites)::

    0  keys      the site does its work and keeps the result x; sends two fresh public keys
    1  shares    it splits a seed b and its first private key among its group, sealed
    2  mask      y = x + PRG(b) + sum_{v < u} PRG(s_uv) - sum_{v > u} PRG(s_uv)   mod 2^64
    3  unmask    for each v of its group: its share of b_v if y_v arrived, of v's key if not

Never both for one site, once only, and only if more than half of the group still count: so no
server can learn b_v and the s_uv of one site, however it lies about who dropped out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from fl_common.errors import PolicyError, ReplyError
from strategies.privacy.fixed_point import Words
from strategies.privacy.masking import (
    agree,
    mask,
    new_key_pair,
    pair_seed,
    same,
    seal,
    split,
    unseal,
)
from strategies.wire.secagg import Stage


@dataclass
class SiteSession:
    """One masked sum as one site sees it; everything in it is secret but the public keys.

    Parameters
    ----------
    name : str
        The server's name for this sum.
    node : int
        The site's own node id.
    stage : int
        The next stage that the site will answer.
    """

    name: str
    node: int
    stage: int = int(Stage.SHARES)
    mask_key: bytes = b""
    mask_public: bytes = b""
    seal_key: bytes = b""
    seal_public: bytes = b""
    seed: bytes = b""
    threshold: int = 0
    peers: list[int] = field(default_factory=list)
    peer_publics: list[bytes] = field(default_factory=list)
    peer_keys: list[bytes] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    seed_shares: list[bytes] = field(default_factory=list)
    key_shares: list[bytes] = field(default_factory=list)

    @classmethod
    def open(cls, name: str, node: int) -> SiteSession:
        """Make fresh keys (stage 0)."""
        session = cls(name, node)
        session.mask_key, session.mask_public = new_key_pair()
        session.seal_key, session.seal_public = new_key_pair()
        return session

    def share(
        self,
        nodes: Sequence[int],
        mask_publics: Sequence[bytes],
        seal_publics: Sequence[bytes],
        threshold: int,
        min_sites: int,
    ) -> tuple[list[int], list[bytes]]:
        """Split the secrets among the group; return whom for, and the sealed shares (stage 1).

        Parameters
        ----------
        nodes, mask_publics, seal_publics : sequences of one length
            The group, this site included.
        min_sites : int
            The site's own policy.

        Raises
        ------
        PolicyError
            If the group or the threshold is too small to hide this site.
        ReplyError
            If the keys are not what they should be.
        """
        self._enter(Stage.SHARES)
        if not len(nodes) == len(mask_publics) == len(seal_publics) == len(set(nodes)):
            raise ReplyError("the group's keys are incomplete")
        if not max(min_sites, len(nodes) // 2 + 1) <= threshold <= len(nodes):
            raise PolicyError(
                f"a sum of {threshold} of {len(nodes)} sites does not hide this one; "
                f"policy.secagg_min_sites is {min_sites}, and more than half must count"
            )
        publics = [*mask_publics, *seal_publics]
        if len(set(publics)) != len(publics):
            raise ReplyError("two public keys of the group are the same")
        own = nodes.index(self.node) if self.node in nodes else -1
        mine = (self.mask_public, self.seal_public)
        if own < 0 or not all(
            same(*pair) for pair in zip((mask_publics[own], seal_publics[own]), mine, strict=True)
        ):
            raise ReplyError("the group holds other keys for this site than it sent")
        self.threshold, self.seed = threshold, os.urandom(32)
        seed_shares = split(self.seed, threshold, len(nodes))
        key_shares = split(self.mask_key, threshold, len(nodes))
        self.sources, self.seed_shares = [self.node], [seed_shares[own]]
        self.key_shares = [key_shares[own]]
        sealed = []
        for place, peer in enumerate(nodes):
            if peer != self.node:
                key = agree(self.seal_key, seal_publics[place])
                self.peers.append(peer)
                self.peer_publics.append(mask_publics[place])
                self.peer_keys.append(key)
                shares = (seed_shares[place], key_shares[place])
                sealed.append(seal(key, self.node, peer, shares))
        return list(self.peers), sealed

    def mask(self, sources: Sequence[int], sealed: Sequence[bytes], words: Words) -> Words:
        """Keep the shares of those who are still there, and mask the result (stage 2).

        Raises
        ------
        PolicyError
            If too few are still there.
        ReplyError
            If a share is not from the group, or damaged.
        """
        self._enter(Stage.MASK)
        if len(sources) != len(sealed) or len(set(sources)) != len(sources):
            raise ReplyError("shares and their senders do not fit together")
        if not set(sources) <= set(self.peers):
            raise ReplyError("shares come from outside the group")
        if len(sources) + 1 < self.threshold:
            raise PolicyError(f"{len(sources) + 1} of {self.threshold} sites of the group are left")
        masked = words + mask(self.seed, len(words))
        for peer, shares in zip(sources, sealed, strict=True):
            place = self.peers.index(peer)
            seed_share, key_share = unseal(self.peer_keys[place], peer, self.node, shares)
            self.sources.append(peer)
            self.seed_shares.append(seed_share)
            self.key_shares.append(key_share)
            shared = pair_seed(agree(self.mask_key, self.peer_publics[place]))
            pad = mask(shared, len(words))
            masked = masked + pad if self.node > peer else masked - pad
        return masked

    def unmask(self, survivors: Sequence[int], dropped: Sequence[int]) -> list[bytes]:
        """Return one share for each of ``survivors`` then ``dropped`` (stage 3).

        Raises
        ------
        PolicyError
            If a site is named as both, or too few survived.
        ReplyError
            If a site is not of the group.
        """
        self._enter(Stage.UNMASK)
        everyone = [*survivors, *dropped]
        if len(set(everyone)) != len(everyone):
            raise PolicyError("a site cannot have answered and dropped out: that would unmask it")
        if len(survivors) < self.threshold or self.node not in survivors:
            raise PolicyError(f"{len(survivors)} of {self.threshold} sites of the group survived")
        if not set(everyone) <= set(self.sources):
            raise ReplyError("a share was asked for that this site does not have")
        place = {node: index for index, node in enumerate(self.sources)}
        return [self.seed_shares[place[n]] for n in survivors] + [
            self.key_shares[place[n]] for n in dropped
        ]

    def _enter(self, stage: Stage) -> None:
        """Answer each stage once and in order."""
        if self.stage != stage:
            raise PolicyError(f"stage {stage:d} of a masked sum, asked for at stage {self.stage}")
        self.stage = stage + 1
