"""Every kind of picture is read as upright 8-bit RGB, or refused by name."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fl_common.errors import ConfigError, DataError
from tasks.images import BadImageError, FileImage, ImageIssues, inspect_image, read_image
from tasks.images.issues import DESCRIPTIONS, NEUTRAL
from tasks.images.read import MAX_PIXELS, MOST_PIXELS
from tasks.registry import load_task
from tasks.sites.folders import PICTURE_SUFFIXES


def _picture(mode="RGB", size=(40, 30)):
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def _saved(path, picture, **options):
    picture.save(path, **options)
    return path


def _png(width, height, data=b"", depth=8, kind=2):
    """Return a PNG from its uncompressed rows; without any it claims a size and holds nothing."""

    def chunk(name, body):
        checksum = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def _deep_png(values):
    """Return a 16-bit PNG of colours, shape (h, w, 3), uint16."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return _png(values.shape[1], values.shape[0], rows, depth=16)


def _bad_second_frame():
    """Return a TIFF whose second frame has a kind of pixels that does not exist."""
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    content = bytearray(_bytes(frames[0], "TIFF", save_all=True, append_images=frames[1:]))
    (first,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, first)
    (second,) = struct.unpack_from("<I", content, first + 2 + 12 * count)
    (count,) = struct.unpack_from("<H", content, second)
    for entry in range(second + 2, second + 2 + 12 * count, 12):
        if struct.unpack_from("<H", content, entry)[0] == 262:  # photometric interpretation
            struct.pack_into("<H", content, entry + 8, 77)
    return bytes(content)


def _bytes(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


BAD = {
    "no_bytes.png": ("zero_size", b""),
    "text.jpg": ("unreadable", b"this is no picture"),
    "script.png": ("unreadable", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "half.jpg": ("truncated", lambda: _bytes(_picture(size=(400, 300)), "JPEG")[:9000]),
    "half.png": ("truncated", lambda: _bytes(_picture(size=(400, 300)), "PNG")[:9000]),
    "half.bmp": ("truncated", lambda: _bytes(_picture(), "BMP")[:2000]),
    "half.webp": ("truncated|unreadable", lambda: _bytes(_picture(), "WEBP", lossless=True)[:900]),
    "no_pixels.png": ("unreadable|zero_size", lambda: _png(0, 10)),
    "bomb.png": ("too_large", lambda: _png(50_000, 50_000)),
    "big.png": ("too_large", lambda: _png(9_000, 9_000)),
    "float.tif": ("unsupported", lambda: _bytes(Image.new("F", (4, 4), 0.5), "TIFF")),
    "second_frame.tif": ("truncated", _bad_second_frame),
    "small_values.tif": ("unsupported", lambda: _bytes(Image.new("I", (4, 4), 9), "TIFF")),
    "deep.tif": ("unsupported", lambda: _bytes(Image.new("I", (4, 4), 2**20), "TIFF")),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("read", [read_image, inspect_image])
def test_bad_picture_is_named(name, read, tmp_path):
    kinds, content = BAD[name]
    path = tmp_path / name
    path.write_bytes(content() if callable(content) else content)
    with pytest.raises(BadImageError, match=name) as caught:
        read(path)
    assert caught.value.kind in kinds.split("|")
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_every_accepted_ending_is_read(suffix, tmp_path):
    mode = "L" if suffix == ".pgm" else "RGB"
    picture = Image.new(mode, (24, 16), 200 if mode == "L" else (200, 100, 50))
    kind = {".mpo": {"format": "MPO", "save_all": True, "append_images": [picture]}}
    path = _saved(tmp_path / f"a{suffix}", picture, **kind.get(suffix, {}))
    read = read_image(path)
    assert (read.mode, read.size) == ("RGB", (24, 16))
    assert read.getpixel((3, 3)) == pytest.approx(picture.convert("RGB").getpixel((3, 3)), abs=4)
    facts = inspect_image(path)
    assert (facts.width, facts.height) == (24, 16)
    assert set(facts.conversions) <= {"palette"}


@pytest.mark.parametrize("suffix", sorted(PICTURE_SUFFIXES))
def test_junk_is_said_to_be_no_image(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"not a picture at all")
    with pytest.raises(BadImageError, match="is no image of a known format") as caught:
        inspect_image(path)
    assert caught.value.kind == "unreadable"


def test_junk_is_no_image_whatever_another_package_makes_of_pillow(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.write_bytes(b"not a picture at all")
    plain = Image.open

    def with_more_formats(*arguments, **options):
        try:
            return plain(*arguments, **options)
        except Image.UnidentifiedImageError:
            import no_such_decoder  # as ultralytics does with one for HEIF

            return no_such_decoder

    monkeypatch.setattr(Image, "open", with_more_formats)
    with pytest.raises(BadImageError, match="is no image of a known format"):
        read_image(path)


def test_missing_picture_is_named(tmp_path):
    with pytest.raises(BadImageError, match=r"gone\.png: No such file") as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.kind == "missing"
    with pytest.raises(BadImageError):
        read_image(tmp_path)


def test_pixel_limit_can_be_set(tmp_path):
    path = _saved(tmp_path / "a.png", _picture())
    with pytest.raises(BadImageError, match="limit is 1,000 pixels"):
        read_image(path, max_pixels=1000)


def test_largest_limit_is_pillows_own(tmp_path):
    assert MOST_PIXELS == 2 * Image.MAX_IMAGE_PIXELS
    path = tmp_path / "bomb.png"
    path.write_bytes(_png(20_000, 20_000))
    with pytest.raises(BadImageError, match="limit is 178,956,970 pixels"):
        inspect_image(path, max_pixels=10**9)
    classes = {"classes": ["a", "b"]}
    for task in ("image_classification", "semantic_segmentation"):
        load_task(task, {**classes, "max_pixels": MOST_PIXELS})
        with pytest.raises(ConfigError, match="max_pixels"):
            load_task(task, {**classes, "max_pixels": MOST_PIXELS + 1})


def test_a_higher_limit_is_no_warning(tmp_path):
    path = _saved(tmp_path / "large.png", Image.new("1", (11_000, 9_000)))
    assert path.stat().st_size < 2**20
    assert max(MAX_PIXELS, Image.MAX_IMAGE_PIXELS) < 99_000_000
    assert inspect_image(path, max_pixels=100_000_000).width == 11_000


@pytest.mark.parametrize(
    ("name", "mode", "conversion", "options"),
    [
        ("grey.png", "L", (), {}),
        ("one_bit.png", "1", (), {}),
        ("palette.png", "P", ("palette",), {}),
        ("clear_palette.png", "P", ("palette", "alpha"), {"transparency": 0}),
        ("alpha.png", "RGBA", ("alpha",), {}),
        ("grey_alpha.png", "LA", ("alpha",), {}),
        ("print.jpg", "CMYK", ("cmyk",), {}),
        ("plain.jpg", "RGB", (), {}),
        ("plain.webp", "RGB", (), {}),
    ],
)
def test_every_mode_becomes_rgb(name, mode, conversion, options, tmp_path):
    path = _saved(tmp_path / name, _picture(mode), **options)
    picture = read_image(path)
    assert (picture.mode, picture.size) == ("RGB", (40, 30))
    assert inspect_image(path).conversions == conversion
    assert (inspect_image(path).width, inspect_image(path).height) == (40, 30)


def test_colour_survives_transparency(tmp_path):
    path = _saved(tmp_path / "a.png", Image.new("RGBA", (3, 3), (200, 10, 20, 0)))
    assert read_image(path).getpixel((1, 1)) == (200, 10, 20)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_sixteen_bits_keep_the_high_byte(name, tmp_path):
    values = np.array([[0, 255, 256], [25600, 65280, 65535]], dtype=np.uint16)
    path = _saved(tmp_path / name, Image.fromarray(values))
    assert np.asarray(read_image(path))[..., 1].tolist() == [[0, 0, 1], [100, 255, 255]]
    assert inspect_image(path).conversions == ("sixteen_bit",)


@pytest.mark.parametrize("factor", [1, 4])
def test_sixteen_bits_of_each_colour_are_noted(factor, tmp_path):
    values = np.arange(4 * 5 * 3, dtype=np.uint16).reshape(4, 5, 3) * 256 * factor
    path = tmp_path / "deep.png"
    path.write_bytes(_deep_png(values))
    np.testing.assert_array_equal(np.asarray(read_image(path)), values >> 8)
    assert inspect_image(path).conversions == ("sixteen_bit",)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "colour.png", "grey.pgm"])
@pytest.mark.parametrize(("top", "dim"), [(4095, True), (4096, False), (0, False)])
def test_twelve_bits_in_sixteen_are_noted_with_the_cure(name, top, dim, tmp_path):
    grey = np.full((3, 4), top, np.uint16)
    path = tmp_path / name
    if name == "colour.png":
        path.write_bytes(_deep_png(np.repeat(grey[..., None], 3, axis=2)))
    elif name == "grey.pgm":
        path.write_bytes(b"P5\n4 3\n65535\n" + grey.astype(">u2").tobytes())
    else:
        Image.fromarray(grey).save(path)
    assert inspect_image(path).conversions == ("sixteen_bit", "dim")[: 1 + dim]
    assert read_image(path).getpixel((1, 1)) == (top >> 8,) * 3
    issues = ImageIssues()
    issues.add("dim", path)
    assert "multiply them by 16" in issues.notes()[0]
    issues.check("site")  # a note, never refused


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_exif_orientation_is_applied(orientation, kind, tmp_path):
    upright = np.zeros((24, 40, 3), dtype=np.uint8)
    upright[:12, :20] = (250, 20, 20)  # red marks the corner at the top left
    picture = Image.fromarray(upright)
    as_stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture if as_stored is None else picture.transpose(as_stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _saved(tmp_path / f"turned.{kind}", stored, exif=exif)
    read = read_image(path)
    assert read.size == (40, 24)
    assert read.getpixel((5, 5))[0] > 200
    assert read.getpixel((35, 20))[0] < 60
    facts = inspect_image(path)
    assert (facts.width, facts.height) == (40, 24)
    assert facts.conversions == (() if orientation == 1 else ("exif_rotated",))


def test_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = _saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert read_image(path).getpixel((2, 2)) == (255, 0, 0)
    assert "animated" in inspect_image(path).conversions


def _frames(kind):
    return _bytes(_picture(), kind, save_all=True, append_images=[_picture()])


WHOLE = {
    kind: _bytes(_picture(), kind)
    for kind in ("JPEG", "PNG", "TIFF", "GIF", "WEBP", "BMP", "JPEG2000", "PPM")
} | {f"{kind} frames": _frames(kind) for kind in ("TIFF", "GIF", "MPO")}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_damaged_pictures_never_crash(tmp_path_factory, kind, data):
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 12))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    path = tmp_path_factory.mktemp("damaged") / "a.img"
    path.write_bytes(bytes(content))
    for read in (inspect_image, read_image):
        with contextlib.suppress(BadImageError):
            read(path)


def test_reference_reads_late_and_travels(tmp_path):
    reference = pickle.loads(pickle.dumps(FileImage(tmp_path / "later.png")))
    with pytest.raises(BadImageError):
        reference.load()
    _saved(tmp_path / "later.png", _picture())
    assert reference.load().size == (40, 30)
    assert reference.inspect().width == 40
    assert reference.name.endswith("later.png")


def test_issues_refuses_with_counts_and_first_files():
    issues = ImageIssues("refuse")
    for index in range(5):
        issues.add("box_empty", f"{index}.xml", f"object {index}")
    issues.add("truncated", "a.jpg", "is cut off")
    issues.add("palette", "b.png")
    with pytest.raises(DataError) as caught:
        issues.check("site/data")
    message = str(caught.value)
    assert message.startswith("site/data: 5 boxes have no area (0.xml: object 0, 1.xml: object 1")
    assert "1 images are cut off or damaged (a.jpg: is cut off)" in message
    assert "palette" not in message
    assert "data.on_invalid=drop" in message
    assert "\n" not in message


def test_issues_drops_with_notes():
    issues = ImageIssues("drop")
    issues.add("box_empty", "a.xml")
    issues.add("palette", "b.png")
    issues.check("site/data")
    assert issues.notes() == [
        "left out: 1 boxes have no area (a.xml)",
        "1 images have a palette; converted to RGB (b.png)",
    ]
    assert issues.num_bad == 1


def test_issues_keeps_its_size():
    issues = ImageIssues("drop")
    for index in range(5000):
        issues.add("truncated", index)
    assert issues.counts["truncated"] == 5000
    assert len(issues.found) == 1000
    assert "5000 images are cut off" in issues.notes()[0]


def test_issues_has_two_policies_and_describes_every_neutral_kind():
    with pytest.raises(ConfigError, match="refuse or drop"):
        ImageIssues("ignore")
    assert set(DESCRIPTIONS) >= NEUTRAL


def _with_sbit(path, bits):
    data = path.read_bytes()
    chunk = b"sBIT" + bytes([bits])
    chunk = (1).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    path.write_bytes(data[:33] + chunk + data[33:])  # behind the header


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_twelve_bits_keep_256_grey_levels_where_the_file_or_the_use_case_says_so(name, tmp_path):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / name
    Image.fromarray(values).save(path)
    assert len(np.unique(np.asarray(read_image(path)))) == 16
    np.testing.assert_array_equal(np.asarray(read_image(path, bit_depth=12))[..., 0], values >> 4)
    assert inspect_image(path, bit_depth=12).conversions == ("sixteen_bit",)
    if name.endswith("png"):
        _with_sbit(path, 12)
    else:
        Image.fromarray(values).save(path, tiffinfo={281: 4095})
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 1], values >> 4)
    assert inspect_image(path).conversions == ("sixteen_bit",)
    with pytest.raises(BadImageError, match="has the value 4095, beyond its 10 bits"):
        inspect_image(path, bit_depth=10)


def test_eight_bits_do_not_depend_on_a_bit_depth(tmp_path):
    path = _saved(tmp_path / "a.png", _picture("L"))
    plain = np.asarray(read_image(path))
    np.testing.assert_array_equal(np.asarray(read_image(path, bit_depth=12)), plain)
