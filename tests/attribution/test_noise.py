import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradattr.attribution.noise import choices, standard_normal, standard_uniform, uniform_numbers
from gradattr.seeds import derive_seed

SEED = st.integers(min_value=0, max_value=2**63 - 1)


@given(st.lists(SEED, min_size=2, max_size=6), st.integers(0, 20), st.data())
@settings(max_examples=30, deadline=None)
def test_a_row_depends_on_its_own_seed_alone(seeds, copy, data):
    x = torch.zeros(len(seeds), 2, 5)
    order = data.draw(st.permutations(range(len(seeds))))
    for draw in (standard_normal, standard_uniform):
        together = draw(x, seeds, "noise", copy)
        shuffled = draw(x, [seeds[i] for i in order], "noise", copy)
        assert torch.equal(shuffled, together[list(order)])
        assert torch.equal(draw(x[:1], seeds[:1], "noise", copy), together[:1])


def test_normal_draws_are_those_of_a_fresh_generator():
    x = torch.zeros(2, 3, 8, 8)
    draws = standard_normal(x, [11, 12], "noise", 3)
    generator = torch.Generator().manual_seed(derive_seed(12, "noise", 3))
    assert torch.equal(draws[1], torch.randn(3, 8, 8, generator=generator))


def test_copies_purposes_and_seeds_differ():
    x = torch.zeros(1, 1000)
    draws = [
        standard_normal(x, [seed], purpose, copy)
        for seed, purpose, copy in [(1, "a", 0), (1, "a", 1), (1, "b", 0), (2, "a", 0)]
    ]
    correlation = torch.corrcoef(torch.cat(draws))
    assert (correlation - torch.eye(4)).abs().max() < 0.15


def test_float64_sees_the_noise_of_float32():
    x = torch.zeros(2, 3, 4)
    single = standard_normal(x, [5, 6], "noise")
    double = standard_normal(x.double(), [5, 6], "noise")
    assert double.dtype == torch.float64
    assert torch.equal(double, single.double())


def test_distributions_have_their_moments():
    x = torch.zeros(4, 50_000)
    normal = standard_normal(x, range(4), "noise").double()
    assert normal.mean().abs() < 0.01
    assert abs(normal.std() - 1) < 0.01
    uniform = standard_uniform(x, range(4), "noise").double()
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.01
    numbers = torch.tensor(uniform_numbers(range(20_000), "alpha"), dtype=torch.float64)
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.01
    counts = torch.bincount(torch.tensor(choices(range(20_000), "pick", 5)), minlength=5)
    assert (counts / 20_000 - 0.2).abs().max() < 0.02


def test_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    standard_normal(torch.zeros(3, 4), [1, 2, 3], "noise")
    assert torch.equal(torch.get_rng_state(), state)
