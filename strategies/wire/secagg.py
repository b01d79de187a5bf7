"""The messages of a masked sum (secure aggregation), stage by stage.

The first messages are those of training and evaluation; their configuration names the sum
(``SESSION``) and how sites weigh in it (``WEIGHTING``). The further stages are ``query.secagg``.

=======  =====================  =============================================
stage    request                reply
=======  =====================  =============================================
KEYS     training, evaluation   ``KeysReply``
SHARES   ``SharesRequest``      ``SharesReply``
MASK     ``MaskRequest``        ``MaskReply``, and the vector as an array
UNMASK   ``UnmaskRequest``      ``UnmaskReply``
=======  =====================  =============================================
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Literal, Self

from flwr.app import ArrayRecord, ConfigRecord, Message
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fl_common.errors import ReplyError
from strategies.wire.records import record_of

SESSION, WEIGHTING = "secagg-session", "secagg-weighting"
MASKED_SUM, SECAGG, MASKED, VECTOR = "query.secagg", "secagg", "masked", "vector"
STAGE = "stage"


class Stage(IntEnum):
    """What a site answers next; each once, and in this order."""

    KEYS = 0
    SHARES = 1
    MASK = 2
    UNMASK = 3
    DONE = 4


PublicKey = Annotated[bytes, Field(max_length=512)]
"""A key on P-384, as PEM."""
Share = Annotated[bytes, Field(max_length=128)]
"""A share of a secret of 48 bytes."""
SealedShares = Annotated[bytes, Field(max_length=1024)]
"""Two shares, encrypted for one other site."""
Count = Annotated[int, Field(ge=1)]


class SecaggMessage(BaseModel):
    """Values of one message: exactly these, of exactly these kinds."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=lambda name: name.replace("_", "-"),
        validate_by_name=True,
        validate_by_alias=True,
    )

    def to_record(self) -> ConfigRecord:
        """Encode for the wire; an empty list is left out, because Flower cannot type it."""
        values = self.model_dump(by_alias=True)
        return ConfigRecord({key: value for key, value in values.items() if value != []})

    @classmethod
    def from_record(cls, record: ConfigRecord) -> Self:
        """Decode.

        Raises
        ------
        ReplyError
            Naming the key; not the value, which may be secret.
        """
        try:
            return cls.model_validate(dict(record))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ReplyError(f"masked sum: '{key}': {first['msg'].lower()}") from None


class KeysReply(SecaggMessage):
    """Two fresh public keys."""

    mask_key: PublicKey
    seal_key: PublicKey


class StageRequest(SecaggMessage):
    """What every further stage says: which sum, and which stage of it."""

    session: str
    stage: int


class SharesRequest(StageRequest):
    """The site's group, itself included, and how many of it must count."""

    stage: Literal[1] = 1
    nodes: list[int] = []
    mask_keys: list[PublicKey] = []
    seal_keys: list[PublicKey] = []
    threshold: Count


class SharesReply(SecaggMessage):
    """For whom the site has sealed shares of its secrets, and the shares."""

    nodes: list[int] = []
    sealed_shares: list[SealedShares] = []


class MaskRequest(StageRequest):
    """Who sealed shares for this site, and the form of the vector that it is to send."""

    stage: Literal[2] = 2
    nodes: list[int] = []
    sealed_shares: list[SealedShares] = []
    num_sites: Count
    num_words: Count


class MaskReply(SecaggMessage):
    """Nothing beside the vector."""


class UnmaskRequest(StageRequest):
    """Who of the site's group is in the sum, and who dropped out of it."""

    stage: Literal[3] = 3
    survivors: list[int] = []
    dropped: list[int] = []


class UnmaskReply(SecaggMessage):
    """A share for each of the survivors, then of the dropped."""

    shares: list[Share] = []


REPLIES: dict[Stage, type[SecaggMessage]] = {
    Stage.KEYS: KeysReply,
    Stage.SHARES: SharesReply,
    Stage.MASK: MaskReply,
    Stage.UNMASK: UnmaskReply,
}


REQUESTS: dict[object, type[SharesRequest] | type[MaskRequest] | type[UnmaskRequest]] = {
    int(Stage.SHARES): SharesRequest,
    int(Stage.MASK): MaskRequest,
    int(Stage.UNMASK): UnmaskRequest,
}


def request_of(record: ConfigRecord) -> SharesRequest | MaskRequest | UnmaskRequest:
    """Decode the request of a further stage.

    Raises
    ------
    ReplyError
        If there is no such stage, or a key is missing, unknown or of another kind.
    """
    stage = record.get(STAGE)
    if type(stage) is not int or stage not in REQUESTS:
        raise ReplyError(f"a masked sum has no further stage {stage!r}")
    return REQUESTS[stage].from_record(record)


def stage_of(message: Message) -> Stage:
    """Return what a request of a masked sum asks for.

    Raises
    ------
    ReplyError
        If there is no such stage.
    """
    if message.metadata.message_type != MASKED_SUM:
        return Stage.KEYS
    number = record_of(message.content, SECAGG, ConfigRecord).get(STAGE)
    try:
        return Stage(number)  # type: ignore[arg-type]
    except ValueError:
        raise ReplyError(f"a masked sum has no stage {number!r}") from None


def vector_form(record: ArrayRecord) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return name, shape and dtype of what a masked record holds."""
    return {name: (tuple(array.shape), array.dtype) for name, array in record.items()}


def expected_form(num_words: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the form of the one vector that a masked record may hold."""
    return {VECTOR: ((num_words,), "uint64")}
