"""Scores of training data: grad-cos and its sketches against loops and Captum; memory; growth.

    python tests/bench/bench_influence.py [--small] [--rounds 5] [--work grad-cos]

grad-cos of n training examples x q queries: ours, one backward pass per example as a user writes
it, vmap(grad), Captum's exact TracIn (its inner products only: the norms would cost it another
pass; on fewer examples; the queries' gradients count as examples), and the floor: plain batched
backward passes over the same examples, which know nothing of single ones, in both memory formats.
Time grows with n alone, so fewer than a whole training set tell the ratios. ``error`` is relative
to the largest value of the loop.

Sketches: a new block of queries against a training set of 20 000: ranked by sketches alone, then
with the best and worst 50 scored exactly, against the full pass over all of them (measured on a
part, and scaled). recall@20: of the 20 highest and the 20 lowest exact scores, found.
"""

from __future__ import annotations

import copy
import statistics
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from bench_common import Work, clocked, fastest, interleaved, machine, one_thread
from captum.influence import TracInCP
from influence_common import (
    HEADER,
    Setting,
    arguments,
    loop,
    make_setting,
    plain_backward,
    show,
    table,
    vectorised,
)
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from gradattr.influence import (
    CountSketch,
    GradientProducts,
    Sketches,
    candidates,
    estimated_cosines,
    grad_cos,
)

CAPTUM_EXAMPLES, CAPTUM_QUERIES = 32, 10
TRAIN = 20_000
FLOORS = "floor: plain batches", "floor: plain batches, channels last"
TOP = 20


def captum_dots(setting: Setting, count: int, batch: int) -> Tensor:
    """<g_i, u_t> (count, q) by Captum's TracInCP, one checkpoint of rate 1."""
    attributor = TracInCP(
        setting.model,
        TensorDataset(setting.x[:count], setting.y[:count]),
        ["as it is"],
        checkpoints_load_func=lambda *_: 1.0,
        loss_fn=nn.CrossEntropyLoss(reduction="none"),
        batch_size=batch,
    )
    found = attributor.influence(
        (setting.queries[:CAPTUM_QUERIES], setting.labels[:CAPTUM_QUERIES])
    )
    return found.T


def measure_scores(name: str, images: int, queries: int, rounds: int) -> None:
    setting = make_setting(name, images, queries)
    products = GradientProducts(setting.model)
    directions = products.directions(setting.queries, setting.labels)
    unit = directions.flat() / directions.norms()[:, None].float()
    small = setting.name == "resnet20"
    batch = 64 if small else 8
    other = copy.deepcopy(setting.model).to(memory_format=torch.channels_last)
    x = setting.x.contiguous(memory_format=torch.channels_last)
    _, vmapped = fastest({f"{n}": partial(vectorised, setting, unit, n) for n in (8, 32)})
    contenders: dict[str, Work] = {
        "loop, one backward each": lambda: loop(setting, unit),
        "vmap(grad)": vmapped,
        "gradattr": lambda: grad_cos(products, setting.x, setting.y, directions).values,
        FLOORS[0]: partial(plain_backward, setting.model, setting.x, setting.y, batch),
        FLOORS[1]: partial(plain_backward, other, x, setting.y, batch),
    }
    timings = interleaved(contenders, rounds)
    exact = timings["loop, one backward each"].maps
    work = f"grad-cos, {name}, {images} x {queries}"
    lines = table(work, timings, images, {"vmap(grad)": exact, "gradattr": exact})
    ours = timings["gradattr"].median / images
    if small:
        count = CAPTUM_EXAMPLES
        each_of = count + CAPTUM_QUERIES
        spent = [clocked(lambda: captum_dots(setting, count, 1))[0] / each_of for _ in range(3)]
        dots = products.dots(setting.x[:count], setting.y[:count], directions)
        error = (captum_dots(setting, count, 1) - dots).abs().max() / dots.abs().max()
        base = timings["loop, one backward each"].median / images
        each = statistics.median(spent)
        lines.append(
            f"| {work} | Captum TracInCP, inner products, {count} examples | {1e3 * each:.4g} | "
            f"{base / each:.2f} | {float(error):.1e} | - |"
        )
        lines.append(f"| {work} | gradattr against Captum | - | {each / ours:.1f} | - | - |")
    for floor in FLOORS:
        over = ours * images / timings[floor].median
        lines.append(f"| {work} | gradattr's time over: {floor} | - | {over:.2f} | - | - |")
    show(lines)


def measure_growth(images: int, rounds: int) -> None:
    """Ten times the training examples: time each, in turn."""
    setting = make_setting("resnet20", 10 * images, 10)
    products = GradientProducts(setting.model)
    directions = products.directions(setting.queries, setting.labels)
    timings = interleaved(
        {str(n): partial(_scores, products, setting, directions, n) for n in (images, 10 * images)},
        rounds,
    )
    one, ten = (timing.median for timing in timings.values())
    work = f"time of {10 * images} over {images}"
    show([f"| grad-cos, resnet20 | {work} | - | {ten / one:.2f} | - | - |"])


def _scores(products: GradientProducts, setting: Setting, directions: object, n: int) -> Tensor:
    return grad_cos(products, setting.x[:n], setting.y[:n], directions).values  # type: ignore[arg-type]


def measure_sketches(images: int, rounds: int) -> None:
    setting = make_setting("resnet20", images, 10)
    x, y = setting.x, setting.y
    products = GradientProducts(setting.model)
    directions = products.directions(setting.queries, setting.labels)
    sketch = CountSketch(products)
    spent = [clocked(lambda: sketch.of_examples(x[:256], y[:256]).values)[0] for _ in range(3)]
    train = sketch.of_examples(x, y)
    exact = grad_cos(products, x, y, directions).values
    tiles = -(-TRAIN // images)
    many = Sketches(train.values.repeat(tiles, 1)[:TRAIN], train.norms.repeat(tiles)[:TRAIN])

    def rank(against: Sketches = many) -> Tensor:
        return candidates(estimated_cosines(against, sketch.of_directions(directions)), 50)

    def rescore() -> Tensor:
        rows = rank().remainder(images)  # the tiles are copies
        found = []
        for t in range(len(directions)):
            own = directions.rows(slice(t, t + 1))
            found.append(grad_cos(products, x[rows[t]], y[rows[t]], own).values)
        return torch.cat(found)

    part = min(images, 512)
    timings = interleaved(
        {
            "full pass": lambda: grad_cos(products, x[:part], y[:part], directions).values,
            "sketches alone": rank,
            "and 2 x 50 scored exactly": rescore,
        },
        rounds,
    )
    whole = timings["full pass"].median * TRAIN / part
    work = f"10 new queries, {TRAIN} examples, resnet20"
    lines = [f"| {work} | full pass, from {part} | {1e3 * whole:.5g} | 1.00 | - | - |"]
    for name in ("sketches alone", "and 2 x 50 scored exactly"):
        time = timings[name].median
        lines.append(f"| {work} | {name} | {1e3 * time:.4g} | {whole / time:.1f} | - | - |")
    estimates = estimated_cosines(train, sketch.of_directions(directions))
    error = float((estimates - exact).square().mean().sqrt())
    chosen = candidates(estimates, 50)
    found = 0
    for t in range(10):
        wanted = exact[:, t].sort().indices
        wanted = torch.cat([wanted[:TOP], wanted[-TOP:]])
        found += int(torch.isin(wanted, chosen[t]).sum())
    lines.append(
        f"| {work} | recall@{TOP} of {images}: {found / (20 * TOP):.3f}; root mean square error "
        f"{error:.4f} | - | - | - | - |"
    )
    each = statistics.median(spent) / 256
    lines.append(f"| sketches, resnet20 | built | {1e3 * each:.3g} | - | - | - |")
    show(lines)


def measure_memory() -> None:
    """Peak resident memory of fresh processes that stream shards of 256 examples."""
    found = {}
    for images in (256, 2048):
        done = subprocess.run(
            [sys.executable, __file__, "peak", str(images)],
            capture_output=True,
            text=True,
            check=True,
        )
        found[images] = [float(value) for value in done.stdout.split()]
    text = ", ".join(
        f"{n} examples +{after - before:.0f} MB" for n, (before, after) in found.items()
    )
    ratio = found[2048][1] / found[256][1]
    text = f"{text}, on {found[256][0]:.0f} MB of libraries and model"
    show([f"| peak memory, resnet20 | {text} | - | {ratio:.2f} | - | - |"])


def peak(images: int) -> None:
    """Print this process's peak before and after, in MB. Not getrusage: a child begins with its
    parent's."""
    model = make_setting("resnet20", 16, 10).model
    products = GradientProducts(model)
    before = _high_water()
    directions = products.directions(torch.randn(10, 3, 32, 32), torch.arange(10))
    for _ in range(images // 256):
        x, y = torch.randn(256, 3, 32, 32), torch.randint(0, 10, (256,))
        grad_cos(products, x, y, directions)
    print(before, _high_water())


def _high_water() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    if sys.argv[1:2] == ["peak"]:
        peak(int(sys.argv[2]))
        return
    given = arguments(__doc__)
    small = given.small
    works = {
        "grad-cos-32": lambda: measure_scores("resnet20", 128 if small else 512, 10, given.rounds),
        "grad-cos-224": lambda: measure_scores("resnet18", 16 if small else 64, 4, given.rounds),
        "growth": lambda: measure_growth(64 if small else 200, given.rounds),
        "sketches": lambda: measure_sketches(512 if small else 2000, given.rounds),
        "memory": measure_memory,
    }
    show([machine(), "", HEADER])
    for name, work in works.items():
        if name.startswith(given.work or ""):
            work()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    one_thread()
    main()
