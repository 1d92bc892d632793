import pytest
import torch
from torchvision.transforms.v2.functional import gaussian_blur

from gradattr.attribution import (
    Black,
    Blur,
    Constant,
    Mean,
    Noise,
    Normalization,
    Sample,
    Uniform,
)
from gradattr.attribution.baselines import as_baseline

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
NORMALIZATION = Normalization.from_mean_std(MEAN, STD)
SEEDS = [3, 4]


@pytest.fixture
def x(images):
    return (images(2) - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_black_is_zero_before_normalisation(x):
    black = Black().draw(x, SEEDS, 0, NORMALIZATION)
    expected = torch.tensor([-2.5, -1.6, -0.6], dtype=torch.float64).view(1, 3, 1, 1)
    torch.testing.assert_close(black, expected.expand_as(x))


def test_mean_is_zero_after_normalisation(x):
    assert torch.equal(Mean().draw(x, SEEDS, 0, NORMALIZATION), torch.zeros_like(x))


def test_constant_takes_one_number_or_one_per_channel(x):
    assert (Constant(0.25).draw(x, SEEDS, 0, NORMALIZATION) == 0.25).all()
    drawn = Constant((1.0, 2.0, 3.0)).draw(x, SEEDS, 0, NORMALIZATION)
    assert drawn[:, 2].unique().tolist() == [3.0]
    with pytest.raises(ValueError, match="2 channel values for inputs of 3 channels"):
        Constant((1.0, 2.0)).draw(x, SEEDS, 0, NORMALIZATION)


@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.7), (11, 5.0), (31, 4.0)])
def test_blur_equals_torchvision(x, kernel, sigma):
    blurred = Blur(kernel, sigma).draw(x, SEEDS, 0, NORMALIZATION)
    expected = gaussian_blur(x, [kernel, kernel], [sigma, sigma])
    torch.testing.assert_close(blurred, expected, rtol=1e-6, atol=1e-6)


def test_blur_with_a_kernel_larger_than_the_image_keeps_the_mean_of_a_flat_one():
    flat = torch.full((1, 1, 5, 1), 0.7, dtype=torch.float64)
    torch.testing.assert_close(Blur(51, 9.0).draw(flat, [0], 0, NORMALIZATION), flat)


def test_blur_refuses_vectors_and_even_kernels():
    with pytest.raises(ValueError, match="needs images"):
        Blur().draw(torch.zeros(2, 9), SEEDS, 0, NORMALIZATION)
    with pytest.raises(ValueError, match="odd kernel"):
        Blur(4, 1.0)


def test_noise_scales_with_the_range_of_each_image(x):
    x = torch.cat([x[:1], 10 * x[:1]])
    away = Noise(0.3).draw(x, [1, 1], 0, NORMALIZATION) - x
    torch.testing.assert_close(away[1], 10 * away[0])
    assert abs(away[0].std() / (x[0].max() - x[0].min()) - 0.3) < 0.02


def test_uniform_lies_between_black_and_white(x):
    drawn = Uniform().draw(x, SEEDS, 0, NORMALIZATION)
    pixels = drawn * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    assert pixels.min() > -1e-6
    assert pixels.max() < 1 + 1e-6
    assert (pixels.mean((0, 2, 3)) - 0.5).abs().max() < 0.05


def test_sample_draws_whole_images_of_the_pool_each_copy_anew(x, images):
    pool = images(5, seed=9)
    sample = Sample(pool)
    found = set()
    for copy in range(40):
        for row in sample.draw(x, SEEDS, copy, NORMALIZATION):
            matches = [i for i, image in enumerate(pool) if torch.equal(image, row)]
            assert len(matches) == 1
            found.add(matches[0])
    assert found == set(range(5))
    with pytest.raises(ValueError, match="baseline pool"):
        Sample(pool[:0]).draw(x, SEEDS, 0, NORMALIZATION)
    with pytest.raises(ValueError, match="baseline pool"):
        Sample(pool[..., :5]).draw(x, SEEDS, 0, NORMALIZATION)


def test_no_input_is_its_own_only_baseline(images):
    pool = images(3, seed=9)
    own = 0
    for first in range(0, 60, 3):
        seeds = [first, first + 1, first + 2]
        plain = Sample(pool).draw(pool, seeds, 0, NORMALIZATION)
        others = Sample(pool).draw_other(pool, seeds, NORMALIZATION)
        for row, before, drawn in zip(pool, plain, others, strict=True):
            own += torch.equal(row, before)
            assert not torch.equal(row, drawn)
            assert any(torch.equal(drawn, other) for other in pool)
            assert torch.equal(row, before) or torch.equal(before, drawn)
    assert own > 5  # it would have happened
    alone = Sample(pool[:1]).draw_other(pool[:1], [5], NORMALIZATION)
    assert torch.equal(alone, pool[:1])


def test_only_random_baselines_vary_by_copy(x, images):
    pool = Sample(images(5, seed=9))
    for baseline in (Black(), Mean(), Constant(1.0), Blur(), Noise(), Uniform(), pool):
        draws = [baseline.draw(x, SEEDS, copy, NORMALIZATION) for copy in range(6)]
        assert all(d.shape == x.shape and d.dtype == x.dtype for d in draws)
        assert baseline.varies == any(not torch.equal(draws[0], d) for d in draws[1:])
        assert baseline.same_for_all == torch.equal(draws[0][0], draws[0][1])


def test_equal_baselines_compare_equal_and_pools_by_identity(images):
    assert Blur(5, 1.0) == Blur(5, 1.0) != Blur(5, 2.0)
    assert hash(Black()) == hash(Black())
    pool = images(2)
    assert Sample(pool) != Sample(pool)


def test_as_baseline_reads_numbers_and_pools(images):
    pool = images(2)
    assert as_baseline(0.5) == Constant(0.5)
    assert as_baseline(Mean()) == Mean()
    made = as_baseline(pool)
    assert isinstance(made, Sample)
    assert made.pool is pool
