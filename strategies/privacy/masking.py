"""Keys, shares and masks: Flower's and pyca/cryptography's, put together as the protocol asks.

Key agreement (ECDH on P-384, HKDF), authenticated encryption (Fernet) and Shamir's secret sharing
are those of Flower's SecAgg+ (``flwr.common.secure_aggregation``). Its mask generator is not: it
folds a seed into 32 bits (28 for a shared key, which is text) and feeds a Mersenne Twister, so that
a server can try all masks of a pair of sites within minutes; and it never yields the largest
residue. The masks here are the keystream of AES-256 in counter mode, as Bonawitz et al. use.
"""

from __future__ import annotations

import base64
import hmac

import numpy as np
from cryptography.exceptions import InvalidKey
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.secaggplus_utils import (
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)

from fl_common.errors import ReplyError
from strategies.privacy.fixed_point import Words

SCALAR_BYTES, SEED_BYTES = 48, 32


def new_key_pair() -> tuple[bytes, bytes]:
    """Return a private key, as its 48-byte number, and its public key, as PEM."""
    private, public = generate_key_pairs()
    number = private.private_numbers().private_value
    return number.to_bytes(SCALAR_BYTES, "big"), public_key_to_bytes(public)


def public_of(private: bytes) -> bytes:
    """Return the public key of a private one.

    Raises
    ------
    ReplyError
        If the number is no private key.
    """
    return public_key_to_bytes(_private(private).public_key())


def agree(private: bytes, public: bytes) -> bytes:
    """Return the key that two sites share, and nobody else.

    Raises
    ------
    ReplyError
        If the public key is none.
    """
    try:
        peer = bytes_to_public_key(public)
        return generate_shared_key(_private(private), peer)
    except (ValueError, TypeError, AttributeError, InvalidKey) as error:
        raise ReplyError("a public key cannot be used") from error


def mask(seed: bytes, size: int) -> Words:
    """Stretch a 32-byte seed to ``size`` uniform words. A seed makes one mask and no other."""
    stream = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8").astype(np.uint64, copy=False)


def pair_seed(shared_key: bytes) -> bytes:
    """Return the 32 bytes of a shared key, which Flower hands out as text."""
    return base64.urlsafe_b64decode(shared_key)


def split(secret: bytes, threshold: int, num_shares: int) -> list[bytes]:
    """Share a secret so that ``threshold`` shares restore it and fewer say nothing."""
    return create_shares(secret, threshold, num_shares)


def restore(shares: list[bytes], size: int) -> bytes:
    """Restore a secret of ``size`` bytes.

    Raises
    ------
    ReplyError
        If the shares do not belong together.
    """
    try:
        secret = combine_shares(shares)
    except (ValueError, IndexError) as error:
        raise ReplyError("the shares of a secret do not fit together") from error
    if len(secret) != size:
        raise ReplyError("the shares of a secret do not fit together")
    return secret


def seal(shared_key: bytes, source: int, target: int, shares: tuple[bytes, bytes]) -> bytes:
    """Encrypt a seed's and a key's share for one other site."""
    return encrypt(shared_key, share_keys_plaintext_concat(source, target, *shares))


def unseal(shared_key: bytes, source: int, target: int, sealed: bytes) -> tuple[bytes, bytes]:
    """Decrypt what ``source`` sealed for ``target``.

    Raises
    ------
    ReplyError
        If somebody else wrote it, or for somebody else.
    """
    try:
        claimed, meant, seed_share, key_share = share_keys_plaintext_separate(
            decrypt(shared_key, sealed)
        )
    except (InvalidToken, ValueError, IndexError) as error:
        raise ReplyError("a share was not sealed for this site") from error
    if (claimed, meant) != (source, target):
        raise ReplyError("a share was sealed for or by another site")
    return seed_share, key_share


def same(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)


def _private(number: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        return ec.derive_private_key(int.from_bytes(number, "big"), ec.SECP384R1())
    except ValueError as error:
        raise ReplyError("the number is no private key") from error
