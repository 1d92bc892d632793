"""Decoding: one colour rule, bounded sizes, damage as a status and never as a crash."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gradattr.data.decode import BadImage, decode_image, image_size


def gradient(channels: int, depth: type = np.uint8) -> np.ndarray:
    top = np.iinfo(depth).max
    return np.linspace(0, top, 6 * 8 * channels).round().reshape(6, 8, channels).astype(depth)


def as_rgb(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def png16(array: np.ndarray) -> bytes:
    """A 16-bit PNG of one (grey) or three channels, written by hand: PIL cannot."""
    height, width, channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, 0 if channels == 1 else 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def status_of(data: bytes, **options: int) -> tuple[str, str]:
    with pytest.raises(BadImage) as caught:
        decode_image(data, **options)
    return caught.value.status, caught.value.text


def test_rgb_is_as_it_is(encode):
    array = gradient(3)
    assert torch.equal(decode_image(encode(array)), as_rgb(array))


def test_gray_becomes_three_equal_channels(encode):
    array = gradient(1)
    assert torch.equal(decode_image(encode(array[..., 0])), as_rgb(array.repeat(3, 2)))


def test_alpha_is_dropped_not_blended(encode):
    rgba, la = gradient(4), gradient(2)
    assert torch.equal(decode_image(encode(rgba)), as_rgb(rgba[..., :3]))
    grey = as_rgb(la[..., :1].repeat(3, 2))
    assert torch.equal(decode_image(encode(Image.fromarray(la, "LA"))), grey)
    assert torch.equal(decode_image(encode(Image.fromarray(la, "LA")), gray=True), grey[:1])
    assert decode_image(encode(rgba), gray=True).shape == (1, 6, 8)


def test_palette_becomes_its_colours(encode):
    image = Image.fromarray(gradient(3)).quantize(16)
    expected = as_rgb(np.array(image.convert("RGB")))
    assert torch.equal(decode_image(encode(image)), expected)
    assert torch.equal(decode_image(encode(image, transparency=3)), expected)
    assert torch.equal(decode_image(encode(image, "GIF")), expected)


def test_one_bit_becomes_0_and_255(encode):
    bits = gradient(1)[..., 0] > 100
    expected = torch.from_numpy(bits.astype(np.uint8) * 255)
    assert torch.equal(decode_image(encode(bits))[1], expected)
    assert torch.equal(decode_image(encode(bits), gray=True)[0], expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_becomes_its_high_byte(channels):
    words = gradient(channels, np.uint16)
    high = (words >> 8).astype(np.uint8)
    expected = as_rgb(high if channels == 3 else high.repeat(3, 2))
    assert torch.equal(decode_image(png16(words)), expected)


def test_sixteen_bit_tiff_and_pgm_become_their_high_byte(encode):
    words = gradient(1, np.uint16)[..., 0]
    expected = torch.from_numpy((words >> 8).astype(np.uint8))
    tiff = encode(Image.fromarray(words), "TIFF")
    pgm = b"P5 8 6 65535\n" + words.astype(">u2").tobytes()
    assert torch.equal(decode_image(tiff, gray=True)[0], expected)
    assert torch.equal(decode_image(pgm, gray=True)[0], expected)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_becomes_rgb(kind, encode):
    flat = np.full((6, 8, 3), (200, 40, 90), np.uint8)
    data = encode(Image.fromarray(flat).convert("CMYK"), kind)
    got = decode_image(data)
    assert Image.open(io.BytesIO(data)).mode == "CMYK"
    assert (got.int() - as_rgb(flat).int()).abs().max() <= 4


def test_ycbcr_tiff_becomes_rgb(encode):
    flat = np.full((6, 8, 3), (200, 40, 90), np.uint8)
    got = decode_image(encode(Image.fromarray(flat).convert("YCbCr"), "TIFF"))
    assert (got.int() - as_rgb(flat).int()).abs().max() <= 3


def test_float_and_32_bit_images_have_no_rule(encode):
    ramp = gradient(1)[..., 0]
    assert status_of(encode(Image.fromarray(ramp.astype(np.float32)), "TIFF"))[0] == "decode_error"
    status, text = status_of(encode(Image.fromarray(ramp.astype(np.int32) << 20), "TIFF"))
    assert (status, "65535" in text) == ("decode_error", True)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 40}])
def test_the_quick_decoder_gives_what_pil_gives(options, encode, pixels):
    for kind in ("PNG", "JPEG"):
        data = encode(pixels[3], kind, **(options if kind == "JPEG" else {}))
        slow = as_rgb(np.array(Image.open(io.BytesIO(data)).convert("RGB")))
        assert torch.equal(decode_image(data), slow)


def test_without_the_quick_decoder_nothing_changes(encode, pixels, monkeypatch):
    data = encode(pixels[3], "JPEG")
    quick = decode_image(data)
    monkeypatch.setattr("gradattr.data.decode._jpeg_operator", lambda: None)
    assert torch.equal(decode_image(data), quick)


def test_gray_is_pils_luma(encode, pixels):
    expected = np.array(Image.fromarray(pixels[0]).convert("L"))
    assert torch.equal(decode_image(encode(pixels[0]), gray=True)[0], torch.from_numpy(expected))


def test_orientation_is_not_applied(encode, pixels):
    exif = Image.Exif()
    exif[274] = 6
    array = pixels[0][:20]
    assert decode_image(encode(array, "JPEG", exif=exif)).shape == (3, 20, 32)


@pytest.mark.parametrize("data", [b"", b"\0", b"hello, this is text", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_image_says_so(data):
    status, text = status_of(data)
    assert status == "decode_error"
    assert "0x" not in text and ("empty" in text or "not an image" in text)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_image_is_a_decode_error(kind, encode, pixels):
    data = encode(pixels[0], kind)
    for share in (0.02, 0.3, 0.7):
        assert status_of(data[: int(len(data) * share)])[0] == "decode_error"


def test_more_pixels_than_allowed_are_refused_from_the_header(encode, pixels):
    for kind in ("PNG", "JPEG", "GIF"):
        status, text = status_of(encode(pixels[0], kind), max_pixels=1000)
        assert (status, "32x32 = 1024 pixels" in text) == ("too_large", True)
    assert decode_image(encode(pixels[0]), max_pixels=1024).shape == (3, 32, 32)


def test_a_decompression_bomb_is_refused_without_decoding():
    side = 60_000
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    ihdr = b"IHDR" + head
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    idat = b"IDAT" + zlib.compress(b"\0" * 100_000)
    png += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    assert status_of(png)[0] == "too_large"
    assert status_of(png, max_pixels=10**12)[0] in ("too_large", "decode_error")
    assert status_of(b"P6 70000 70000 255\n" + b"\0" * 100)[0] == "too_large"


def test_a_jpeg_cannot_hide_its_frame_behind_padding(encode, pixels):
    """FF FF C0 is a frame to libjpeg; a reader that skips it could be shown a smaller one."""
    data = bytearray(encode(pixels[0], "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_000, 65_000)
    data.insert(at, 0xFF)
    assert status_of(bytes(data))[0] == "too_large"


def test_a_file_larger_than_any_image_of_max_pixels_is_refused():
    assert status_of(b"\0" * ((1 << 20) + 801), max_pixels=100)[0] == "too_large"


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damage_is_a_status_and_never_a_crash(data, encode, pixels):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    image = bytearray(encode(pixels[1], kind))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(image) - 1, 400)))
        image[at] = data.draw(st.integers(0, 255))
    try:
        got = decode_image(bytes(image), max_pixels=2_000_000)
    except BadImage as error:
        assert error.status in ("decode_error", "too_large")
        assert "\n" not in error.text or error.text
    else:
        assert got.dtype == torch.uint8 and got.shape[0] == 3


def test_size_comes_from_the_header(encode, pixels):
    data = encode(pixels[0][:20])
    assert image_size(data[:60]) == (20, 32)
    with pytest.raises(BadImage):
        image_size(b"nothing")
