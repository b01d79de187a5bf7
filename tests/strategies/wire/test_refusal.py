"""An error leaves as a code and a fixed text, never as its own."""

import pytest

from fl_common.errors import (
    DataError,
    DivergedError,
    EgressError,
    PolicyError,
    ReplyError,
    SchemaError,
)
from strategies.wire.refusal import Refusal


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (SchemaError("secret 42"), Refusal.SCHEMA),
        (DataError("secret 42"), Refusal.DATA),
        (PolicyError("secret 42"), Refusal.POLICY),
        (DivergedError("secret 42"), Refusal.DIVERGED),
        (EgressError("secret 42"), Refusal.EGRESS),
        (ReplyError("secret 42"), Refusal.PROTOCOL),
        (ValueError("secret 42"), Refusal.INTERNAL),
    ],
)
def test_an_error_leaves_as_a_fixed_code(error, refusal):
    assert Refusal.of(error) is refusal
    assert Refusal.from_code(refusal.code) is refusal
    assert "42" not in refusal.text


def test_flowers_own_codes_are_not_ours():
    assert Refusal.from_code(1) is None
