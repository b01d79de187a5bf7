"""Read one picture as 8-bit RGB, whatever the file holds; a bad file is a named error.

=================  ==========  ==================================================================
kind               outcome     what happens
=================  ==========  ==================================================================
``missing``        error       no such file, or no right to read it
``zero_size``      error       no bytes, or no pixels
``unreadable``     error       not an image, or of a format that is not accepted
``truncated``      error       the file ends before the picture does, or its data are damaged
``too_large``      error       more pixels than the limit (a decompression bomb)
``unsupported``    error       floating-point, 32-bit or signed pixels: no scale is known for them
``sixteen_bit``    converted   to 8 bits by the bit depth: declared, else the file's own, else 16
``dim``            converted   16-bit pixels that all lie below 4096: nearly black, kept as they are
``cmyk``           converted   to RGB by the plain formula, without a colour profile
``palette``        converted   to RGB
``alpha``          converted   the colour is kept, transparency dropped (as OpenCV does)
``animated``       converted   the first frame is taken
``exif_rotated``   converted   turned upright; width and height are those of the upright picture
=================  ==========  ==================================================================
"""

from __future__ import annotations

import hashlib
import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fl_common.errors import DataError

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "JPEG2000")
"""Accepted formats (JPEG includes MPO); none runs another program or follows a reference."""
MAX_PIXELS = 64_000_000
"""Largest picture, in pixels: 192 MB once decoded."""
MOST_PIXELS = 178_956_970
"""Largest that ``max_pixels`` can allow: beyond, Pillow takes a file for a decompression bomb."""
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How to turn a picture upright, by EXIF orientation; 5 to 8 swap width and height."""
_MAX_SAMPLE_VALUE = 281
DEEPEST = 16
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_HAS_NO_32_BIT = ("PNG", "PPM")
"""Formats of which Pillow may open 16-bit pixels in its 32-bit mode."""
DIGEST_BYTES = 16
DIM_BELOW = 4096
"""16-bit pixels that all lie below hold 12 bits or less."""


class BadImageError(DataError):
    """A picture that cannot be used; ``kind`` is one of the errors of the module's table."""

    def __init__(self, kind: str, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.kind = kind
        self.path = path
        self.detail = detail


@dataclass(frozen=True)
class ImageFacts:
    """What is known of a picture after reading it once.

    Parameters
    ----------
    width, height : int, pixels
        Of the upright picture.
    conversions : tuple of str
        Kinds of the module's table that were applied.
    digest : bytes
        Of the file's content: equal pictures have equal ones. Empty if there is no content.
    """

    width: int
    height: int
    conversions: tuple[str, ...] = ()
    digest: bytes = b""


def read_image(
    path: Path, max_pixels: int = MAX_PIXELS, bit_depth: int | None = None
) -> Image.Image:
    """Return a picture upright, in mode RGB, fully decoded.

    Parameters
    ----------
    bit_depth : int or None, 8 to 16
        Bits that grey 16-bit pixels use; None: what the file says (``sBIT`` of a PNG,
        ``MaxSampleValue`` of a TIFF), else 16.

    Raises
    ------
    BadImageError
        Naming the file; see the module's table.
    """
    with opened(path, max_pixels) as picture:
        return _converted(picture, path, bit_depth)[0]


def inspect_image(
    path: Path, max_pixels: int = MAX_PIXELS, bit_depth: int | None = None
) -> ImageFacts:
    """Decode a picture once and throw the pixels away; finds every error that reading would.

    A JPEG is decoded at an eighth of its size, which reads all of its data in a third of the time.

    Raises
    ------
    BadImageError
        As ``read_image``.
    """
    with opened(path, max_pixels) as picture:
        width, height = picture.size
        picture.draft("RGB", (max(width // 8, 1), max(height // 8, 1)))
        conversions = _converted(picture, path, bit_depth)[1]
        turned = _exif_orientation(picture) >= 5
    with path.open("rb") as file:  # read a moment ago, so it comes from memory
        digest = hashlib.file_digest(file, "blake2b").digest()[:DIGEST_BYTES]
    return ImageFacts(*((height, width) if turned else (width, height)), conversions, digest)


@contextmanager
def opened(
    path: Path, max_pixels: int, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Open a picture that is not decoded yet; whatever Pillow then raises is a ``BadImageError``.

    Its remarks on damaged metadata are not shown: a fault is an error, the rest is fine.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # ``max_pixels`` decides
        try:
            with _opened_file(path, max_pixels, formats) as picture:
                yield picture
        except (DataError, MemoryError):
            raise
        except Exception as error:  # damaged tags may raise anything, wherever they are read
            reason = f"cannot be read ({_reason(error)})"
            raise BadImageError("unreadable", path, reason) from None


@contextmanager
def _opened_file(path: Path, max_pixels: int, formats: tuple[str, ...]) -> Iterator[Image.Image]:
    """Open a picture, check what its header says, and close the file in any case."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("rb"))
        except OSError as error:
            detail = error.strerror or "cannot be read"
            raise BadImageError("missing", path, detail) from None
        if not os.fstat(file.fileno()).st_size:
            raise BadImageError("zero_size", path, "the file is empty")
        picture = _header(file, path, max_pixels, formats)
        width, height = picture.size
        if width < 1 or height < 1:
            raise BadImageError("zero_size", path, f"has {width} x {height} pixels")
        if width * height > max_pixels:
            limit = _limit(max_pixels)
            raise BadImageError("too_large", path, f"{width} x {height} pixels; {limit}")
        yield picture


def _header(file: BinaryIO, path: Path, max_pixels: int, formats: tuple[str, ...]) -> Image.Image:
    try:
        return Image.open(file, formats=formats)
    except Image.DecompressionBombError:
        raise BadImageError("too_large", path, _limit(max_pixels)) from None
    except Exception as error:  # a damaged header may raise anything in a decoder
        # ultralytics replaces Pillow's function by one that then fails to import another decoder
        if isinstance(error, UnidentifiedImageError) or isinstance(
            error.__context__, UnidentifiedImageError
        ):
            detail = "is no image of a known format"
        else:
            detail = f"cannot be read ({_reason(error)})"
        raise BadImageError("unreadable", path, detail) from None


def _converted(
    picture: Image.Image, path: Path, bit_depth: int | None
) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode, turn upright and convert to RGB; name every conversion."""
    conversions = []
    deep = _has_sixteen_bits(picture, path)
    depth = (bit_depth or _stated_depth(picture, path) or DEEPEST) if deep else DEEPEST
    try:
        if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
            conversions.append("animated")  # counting has read the other frames' headers
        picture.load()
    except Exception as error:  # damaged data may raise anything in a decoder
        raise BadImageError(
            "truncated", path, f"is cut off or damaged ({_reason(error)})"
        ) from None
    turn = _UPRIGHT.get(_exif_orientation(picture))
    if turn is not None:
        conversions.append("exif_rotated")
        picture = picture.transpose(turn)
    if deep:
        picture = _eight_bits(picture, depth, path)
        conversions.append("sixteen_bit")
        if 0 < max(high for _, high in _extrema(picture)) < DIM_BELOW >> 8:
            conversions.append("dim")
    mode = picture.mode
    names = {"CMYK": "cmyk", "YCCK": "cmyk", "P": "palette", "PA": "palette"}
    if mode in names:
        conversions.append(names[mode])
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        conversions.append("alpha")
        picture.info.pop("transparency", None)
    return picture if mode == "RGB" else picture.convert("RGB"), tuple(conversions)


def _has_sixteen_bits(picture: Image.Image, path: Path) -> bool:
    """Say whether a channel has 16 bits in the file; Pillow itself halves those of colours.

    Raises
    ------
    BadImageError
        If the pixels are of a kind without a known scale.
    """
    mode = picture.mode
    if mode == "F":
        raise BadImageError("unsupported", path, "has floating-point pixels; save it as 8-bit")
    if mode == "I" and picture.format not in _HAS_NO_32_BIT:
        detail = "has 32-bit or signed pixels; save it as 8-bit, or as unsigned 16-bit"
        raise BadImageError("unsupported", path, detail)
    if mode in (*_SIXTEEN_BIT, "I"):
        return True
    for tile in getattr(picture, "tile", ()):
        layout = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        if tile[0].startswith("ppm"):
            return any(isinstance(part, int) and part > 255 for part in layout)
        if any(isinstance(part, str) and ";16" in part for part in layout):
            return True
    return False


def _stated_depth(picture: Image.Image, path: Path) -> int | None:
    """Return how many bits of a 16-bit pixel a file says it uses; None if it does not say."""
    if picture.format == "TIFF":
        top: Any = getattr(picture, "tag_v2", {}).get(_MAX_SAMPLE_VALUE)
        top = max(top) if isinstance(top, tuple) and top else top
        if not isinstance(top, int):
            return None
        bits: int = top.bit_length()
        return min(max(bits, 8), DEEPEST)
    if picture.format != "PNG":
        return None  # Pillow scales PPM by the file's own largest value
    with path.open("rb") as file:
        file.seek(8)
        while (head := file.read(8))[4:] not in (b"", b"IDAT", b"IEND"):
            size = int.from_bytes(head[:4], "big")
            if head[4:] == b"sBIT":
                deepest: int = max([*file.read(size), 8])  # of the channels
                return min(deepest, DEEPEST)
            file.seek(size + 4, os.SEEK_CUR)
    return None


def _eight_bits(picture: Image.Image, depth: int, path: Path) -> Image.Image:
    if picture.mode not in (*_SIXTEEN_BIT, "I"):
        return picture
    try:
        return Image.fromarray(eight_bits(np.asarray(picture).astype(np.uint16), depth))
    except ValueError as error:
        raise BadImageError("unsupported", path, str(error)) from None


def eight_bits(pixels: NDArray[np.uint16], depth: int) -> NDArray[np.uint8]:
    """Return the highest 8 of the ``depth`` bits that pixels use.

    Raises
    ------
    ValueError
        If a pixel uses more.
    """
    top = int(pixels.max(initial=0))
    if top >> depth:
        raise ValueError(f"has the value {top}, beyond its {depth} bits; set usecase.bit_depth")
    return (pixels >> (depth - 8)).astype(np.uint8)


def _extrema(picture: Image.Image) -> tuple[tuple[int, int], ...]:
    """Return the least and largest value of red, green and blue."""
    found: Any = picture.convert("RGB").getextrema()
    return tuple(found)


def _exif_orientation(picture: Image.Image) -> int:
    try:
        value = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, struct.error, UserWarning):
        return 1  # unreadable camera data say nothing about orientation
    return value if value in _UPRIGHT else 1


def _limit(max_pixels: int) -> str:
    return f"the limit is {min(max_pixels, MOST_PIXELS):,} pixels; tile or shrink it"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:80] or type(error).__name__
