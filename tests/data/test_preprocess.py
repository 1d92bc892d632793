"""Pre-processing: equal to torchvision's published transforms, and to one image at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import EfficientNet_B0_Weights, ResNet18_Weights, ResNet50_Weights

from gradattr.data.preprocess import (
    input_bounds,
    output_shape,
    preprocess_images,
    resized,
)
from gradattr.errors import DataError
from gradattr.manifest.data import Preprocess


def published(weights) -> Preprocess:
    transform = weights.transforms()
    return Preprocess(
        resize=transform.resize_size[0],
        crop=transform.crop_size[0],
        interpolation=transform.interpolation.value,
        mean=list(transform.mean),
        std=list(transform.std),
    )


@pytest.mark.parametrize(
    "weights",
    [
        ResNet18_Weights.IMAGENET1K_V1,
        ResNet50_Weights.IMAGENET1K_V2,
        EfficientNet_B0_Weights.IMAGENET1K_V1,
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(300, 401), (224, 224), (97, 260), (500, 256)])
def test_published_weights_see_what_their_own_transform_gives(weights, size):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    expected = torch.stack([weights.transforms()(image) for image in images])
    assert torch.equal(preprocess_images(images, published(weights)), expected)


sizes = st.integers(1, 40)
pairs = st.one_of(st.none(), sizes, st.lists(sizes, min_size=2, max_size=2))


@st.composite
def steps(draw: st.DrawFn) -> Preprocess:
    normal = draw(st.booleans())
    return Preprocess(
        color=draw(st.sampled_from(["auto", "rgb", "gray"])),
        resize=draw(pairs),
        crop=draw(pairs),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic", "nearest"])),
        mean=[0.4] if normal else None,
        std=[0.2] if normal else None,
    )


@settings(max_examples=150, deadline=None)
@given(
    preprocess=steps(),
    channels=st.sampled_from([1, 2, 3, 4]),
    height=st.integers(3, 33),
    width=st.integers(3, 33),
    count=st.integers(1, 5),
    floats=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_batch_equals_its_images_one_at_a_time(
    preprocess, channels, height, width, count, floats, seed
):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(
        0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator
    )
    if floats:
        images = images / 255
    together = preprocess_images(images, preprocess)
    alone = torch.cat([preprocess_images(image[None], preprocess) for image in images])
    assert torch.equal(together, alone)
    assert together.shape[1:] == output_shape(preprocess, (channels, height, width))
    assert together.dtype == torch.float32


def test_input_is_never_changed():
    images = torch.rand(2, 3, 4, 4)
    before = images.clone()
    out = preprocess_images(images, Preprocess(mean=[0.5], std=[0.1]))
    same = preprocess_images(images, Preprocess())
    same.zero_()
    out.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("height, width", [(30, 40), (40, 30), (7, 500), (33, 33)])
@pytest.mark.parametrize("size", [10, 256])
def test_one_number_is_the_shorter_side(height, width, size):
    got = resized(Preprocess(resize=size), height, width)
    assert min(got) == size
    assert max(got) == int(size * max(height, width) / min(height, width))
    assert (got[0] >= got[1]) == (height >= width)


def test_gray_is_pils_luma_and_leaves_gray_alone():
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    gray = Preprocess(color="gray")
    got = preprocess_images(torch.from_numpy(array).permute(2, 0, 1)[None], gray)
    expected = torch.from_numpy(np.array(Image.fromarray(array).convert("L"))) / 255
    assert torch.equal(got[0, 0], expected)
    ramp = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(preprocess_images(ramp.repeat(1, 3, 1, 1), gray), ramp / 255)


def test_colours_of_raw_arrays():
    images = torch.arange(4, dtype=torch.uint8).view(1, 4, 1, 1) * 10
    rgb = Preprocess(color="rgb")
    assert (preprocess_images(images, rgb) * 255).flatten().tolist() == [0, 10, 20]
    assert (preprocess_images(images[:, 1:2], rgb) * 255).flatten().tolist() == [10, 10, 10]
    assert (preprocess_images(images[:, 1:3], rgb) * 255).flatten().tolist() == [10, 10, 10]
    assert preprocess_images(images, Preprocess()).shape[1] == 4


def test_a_crop_larger_than_the_image_pads_with_zero():
    out = preprocess_images(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8), Preprocess(crop=4))
    assert out.sum() == 4 and out[0, 0, 1:3, 1:3].min() == 1


def test_white_is_one_and_black_is_zero():
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    assert preprocess_images(ends, Preprocess()).flatten().tolist() == [0.0, 1.0]
    low, high = input_bounds(Preprocess(mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 2.0]), 3)
    assert low.tolist() == [-1.0, -1.0, 0.0]
    assert high.tolist() == [1.0, 3.0, 0.5]


def test_one_mean_stands_for_every_channel():
    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    one = preprocess_images(images, Preprocess(mean=[0.3], std=[0.7]))
    three = preprocess_images(images, Preprocess(mean=[0.3] * 3, std=[0.7] * 3))
    assert torch.equal(one, three)


@pytest.mark.parametrize(
    "preprocess, channels, text",
    [
        (Preprocess(color="rgb"), 5, "no rule for images of 5"),
        (Preprocess(mean=[0.1] * 3, std=[1.0] * 3), 1, "mean has 3 numbers, the images have 1"),
        (Preprocess(color="gray", mean=[0.1] * 3, std=[1.0] * 3), 3, "have 1 channel;"),
    ],
)
def test_what_does_not_fit_is_refused(preprocess, channels, text):
    with pytest.raises(DataError, match=text):
        output_shape(preprocess, (channels, 8, 8))
