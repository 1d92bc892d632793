"""Retraining on masked data: ours, masks on the fly, against a Dataset + DataLoader loop.

Run it: ``OMP_NUM_THREADS=1 python tests/bench/bench_retraining.py [repetitions]``. Prints a table
of process CPU time per epoch, medians of interleaved runs (A B C D A B C D ...), and the training
losses that the loops end with. All begin with the same weights and see the same masked images; the
order of batches (and augmentation) is each loop's own.

Research code has two habits: ``pictures`` go through PIL as torchvision's data sets do it, and
``tensors`` are indexed one by one. Ours is measured on a data set that was masked beforehand
(``copy``) and with masks on the fly (``masks``); ``cost`` is what the masks add to an epoch, the
median over the rounds. Targets: pictures/masks at least 4x for the MLP of width 128, 1.5x for
width 1 000, 1.15x for the light CNN; cost at most 5 %.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor, v2

from gradattr.models import simple
from gradattr.retraining import (
    Augmentation,
    LevelBins,
    Masking,
    Recipe,
    kept_count,
    train_classifier,
)

KEEP = 0.1
MEAN, STD = 0.5, 0.25
BATCH = 256


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, int, int]
    images: int
    make: Callable[[], nn.Module]
    augment: bool = False
    epochs: int = 3


GREY, COLOUR = (1, 28, 28), (3, 32, 32)
CASES = [
    # The copy that is masked is made once per training, which lasts for dozens of epochs.
    Case("mlp, width 128", GREY, 8192, lambda: simple.mlp(GREY, 10, [128, 128]), epochs=12),
    Case("mlp, width 1000", GREY, 4096, lambda: simple.mlp(GREY, 10, [1000, 1000])),
    Case("cnn, width 16", COLOUR, 1024, lambda: simple.cnn(COLOUR, 10, 16), epochs=2),
    Case("cnn, width 16, crop + flip", COLOUR, 1024, lambda: simple.cnn(COLOUR, 10, 16), True, 2),
]


class MaskedTensors(Dataset[tuple[Tensor, int]]):
    """One masked (and augmented) image at a time, from a float tensor that is ready for it."""

    def __init__(self, data: Data, augment: bool) -> None:
        self.data = data
        crop = v2.RandomCrop(data.images.shape[2:], padding=4)
        self.augment = v2.Compose([crop, v2.RandomHorizontalFlip()]) if augment else None
        self.x = normalise(data.images)

    def __len__(self) -> int:
        return len(self.data.labels)

    def image(self, index: int) -> Tensor:
        return self.x[index]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        ranks = self.data.ranks[index]
        image = self.image(index) * (ranks < kept_count(ranks.numel(), KEEP))
        if self.augment is not None:
            image = self.augment(image)
        return image, int(self.data.labels[index])


class MaskedPictures(MaskedTensors):
    """As torchvision's data sets do it: bytes -> PIL -> tensor -> normalised, then the mask."""

    def __init__(self, data: Data, augment: bool) -> None:
        super().__init__(data, augment)
        self.arrays = data.images.permute(0, 2, 3, 1).numpy()
        channels = data.images.shape[1]
        self.transform = Compose([ToTensor(), Normalize([MEAN] * channels, [STD] * channels)])

    def image(self, index: int) -> Tensor:
        return self.transform(Image.fromarray(self.arrays[index].squeeze()))


@dataclass(frozen=True)
class Data:
    images: Tensor
    """(n, c, h, w) uint8."""
    labels: Tensor
    ranks: Tensor
    """(n, c, h, w) int32: each coordinate's place in a random order."""


def normalise(images: Tensor) -> Tensor:
    return (images.float() / 255 - MEAN) / STD


def make_data(case: Case) -> Data:
    """Images with a class-dependent pattern, labels, and a random rank of every coordinate."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (case.images,), generator=generator)
    patterns = torch.randn(10, *case.shape, generator=generator)
    x = patterns[labels] + torch.randn(case.images, *case.shape, generator=generator)
    order = torch.rand(x.shape, generator=generator).flatten(1).argsort(1).argsort(1)
    images = (x * 40 + 128).clamp(0, 255).to(torch.uint8)
    return Data(images, labels, order.view(x.shape).to(torch.int32))


def loader_loop(case: Case, model: nn.Module, dataset: MaskedTensors) -> float:
    loader = DataLoader(dataset, BATCH, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    model.train()
    for _ in range(case.epochs):
        total = 0.0
        for images, labels in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item() * len(labels)
    return total / len(dataset)


def ours(case: Case, model: nn.Module, x: Tensor, labels: Tensor, masking: Masking | None) -> float:
    augment = Augmentation() if case.augment else None
    recipe = Recipe(lr=0.05, batch_size=BATCH, epochs=case.epochs, augment=augment, stop_below=0.0)
    return train_classifier(model, x, labels, recipe, masking=masking).last_epoch_loss


def measure(case: Case, repetitions: int) -> str:
    data = make_data(case)
    x, labels = normalise(data.images), data.labels
    level_bins = LevelBins((KEEP, 1.0), data.ranks[0].numel())
    bins = level_bins.rank(data.ranks[0].numel() - data.ranks.double(), range(len(x)))
    masking = Masking(bins, level_bins.top(KEEP))
    copy = masking.apply(x, bins)
    assert torch.equal(copy != 0, (x != 0) & (data.ranks < kept_count(data.ranks[0].numel(), KEEP)))
    loops: list[Callable[[nn.Module], float]] = [
        lambda model: loader_loop(case, model, MaskedPictures(data, case.augment)),
        lambda model: loader_loop(case, model, MaskedTensors(data, case.augment)),
        lambda model: ours(case, model, copy, labels, None),
        lambda model: ours(case, model, x, labels, masking),
    ]
    seconds: list[list[float]] = [[] for _ in loops]
    losses = [0.0 for _ in loops]
    for repetition in range(repetitions + 1):
        for number, loop in enumerate(loops):
            torch.manual_seed(repetition)
            model = case.make()
            start = time.process_time()
            losses[number] = loop(model)
            if repetition:  # the first round warms up
                seconds[number].append((time.process_time() - start) / case.epochs)
    pictures, tensors, copied, masked = map(statistics.median, seconds)
    cost = statistics.median(b / a - 1 for a, b in zip(seconds[2], seconds[3], strict=True))
    return (
        f"{case.name:<28}{case.images:>7}{pictures:>10.3f}{tensors:>9.3f}{copied:>9.3f}"
        f"{masked:>9.3f}{pictures / masked:>9.2f}x{tensors / masked:>8.2f}x{cost:>8.1%}   "
        + " ".join(f"{loss:.3f}" for loss in losses)
    )


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    torch.set_num_threads(1)
    print(f"{platform.machine()} {platform.platform()}, torch {torch.__version__}, one thread,")
    print(
        f"batch {BATCH}, {KEEP:.0%} of coordinates kept, median of {repetitions}, CPU s per epoch"
    )
    columns = f"{'pictures':>10}{'tensors':>9}{'copy':>9}{'masks':>9}"
    ratios = f"{'pict./masks':>12}{'t./masks':>9}{'cost':>6}   training losses"
    print(f"{'model':<28}{'images':>7}{columns}{ratios}")
    for case in CASES:
        print(measure(case, repetitions), flush=True)


if __name__ == "__main__":
    main()
