"""What went over the wire, by node."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Traffic:
    """Bytes of serialized objects since the last reset.

    Attributes
    ----------
    bytes_sent, bytes_received : int
        Totals over all nodes; an object that goes to three nodes counts three times.
    per_node : dict[int, tuple[int, int]]
        Node id to (sent, received).
    """

    bytes_sent: int = 0
    bytes_received: int = 0
    per_node: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, node_id: int, *, sent: int = 0, received: int = 0) -> None:
        """Count bytes to or from a node."""
        self.bytes_sent += sent
        self.bytes_received += received
        before = self.per_node.get(node_id, (0, 0))
        self.per_node[node_id] = (before[0] + sent, before[1] + received)

    def reset(self) -> None:
        """Start again at zero."""
        self.bytes_sent = self.bytes_received = 0
        self.per_node = {}
