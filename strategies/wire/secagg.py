"""Names of a masked sum's messages."""

from __future__ import annotations

MASKED_SUM, SECAGG, MASKED, VECTOR = "query.secagg", "secagg", "masked", "vector"
SESSION, STAGE, WEIGHTING = "secagg-session", "secagg-stage", "secagg-weighting"
MASK_KEY, SEAL_KEY, MASK_KEYS, SEAL_KEYS = "mask-key", "seal-key", "mask-keys", "seal-keys"
NODES, BOXES, SHARES, THRESHOLD = "nodes", "boxes", "shares", "threshold"
SURVIVORS, DROPPED, NUM_SITES, NUM_WORDS = "survivors", "dropped", "num-sites", "num-words"
