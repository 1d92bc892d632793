"""``data:`` -- where images come from, and ``preprocess:`` -- how they become tensors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gradattr.manifest.base import Label, Seed, Spec, Url
from gradattr.manifest.data_base import DataBase, Positive

Pair = Annotated[list[Positive], Field(min_length=2, max_length=2)]


class DigitsData(DataBase):
    """scikit-learn's 1 797 handwritten digits, 8x8 grey, inside the package: no download."""

    format: Literal["digits"]

    split: Literal["all", "train", "test"] = "all"
    """'train' is every row whose number modulo 5 is not 0, 'test' the others."""


class BlockMnistData(DataBase):
    """BlockMNIST (Shah et al. 2021): a digit, the signal, and a fixed patch that is the same for
    every class, the null block, one above the other: 56x28 grey. Each image comes with a mask of
    its null block. The digits are MNIST's, or the embedded ones enlarged to 28x28."""

    format: Literal["blockmnist"]
    images: Url | None = None
    """The idx3 file of 28x28 images, plain or .gz. Default: the embedded digits."""
    labels: Url | None = None
    """Its idx1 file of labels."""
    split: Literal["all", "train", "test"] = "all"
    """Which of the embedded digits; as of the format 'digits'."""
    digits: list[Annotated[int, Field(ge=0, le=255)]] = Field(default=[0, 1], min_length=2)
    """Labels that are used, in class order: class 0 is the first of them."""
    signal: Literal["random", "top"] = "random"
    """Where the digit stands: on top with probability 1/2, independent of its class; or always
    on top (BlockMNIST-Top)."""
    inset: Annotated[int, Field(ge=0, le=12)] = 6
    """Pixels between the edge of the null block and the square drawn in it: at 6 the square's
    lines are rows and columns 6 and 21 of 0 to 27."""
    seed: Seed = 0
    """Decides, with an image's sample id, where its digit stands."""

    @property
    def has_own_masks(self) -> bool:
        return True

    @model_validator(mode="after")
    def _source(self) -> BlockMnistData:
        if (self.images is None) != (self.labels is None):
            raise ValueError("images and labels come together (neither: the embedded digits)")
        if self.images is not None and self.split != "all":
            raise ValueError("split is for the embedded digits; name another images file instead")
        if len(set(self.digits)) != len(self.digits):
            raise ValueError("digits: a label stands there twice")
        return self


class TheoryData(DataBase):
    """The data of DiffROAR's theorem (Shah et al. 2021, eq. 2): d blocks of m numbers, the label
    y = -1 or 1 (class 0 or 1). One block j, uniform in the first d/2, holds y u + eta g_j, every
    other block eta g_i, with ||u|| = 1 and g_i uniform in the unit ball. An image is
    (1, d, m), a row for each block, with a mask of all blocks but j. Values may be negative."""

    format: Literal["theory"]
    blocks: Annotated[int, Field(ge=2, le=10_000, multiple_of=2)] = 10
    """d, even: the first half may hold the signal, the other half never does."""
    block_dim: Annotated[int, Field(ge=1, le=10_000)] = 1
    """m. u is the vector of equal numbers 1 / sqrt(m)."""
    eta: Annotated[float, Field(ge=0)] = 0.0
    """Size of the noise."""
    rows: Positive | None = None
    """Images to draw. Default, without noise: the d points that differ, each once."""
    seed: Seed = 0

    @property
    def has_own_masks(self) -> bool:
        return True

    @model_validator(mode="after")
    def _counted(self) -> TheoryData:
        if self.eta > 0 and self.rows is None:
            raise ValueError("rows: with eta above 0 no two images are equal; say how many to draw")
        return self


class IdxData(DataBase):
    """IDX files, plain or .gz (MNIST, Fashion-MNIST, KMNIST, EMNIST)."""

    format: Literal["idx"]
    images: Url
    """The idx3 (or idx4) file of unsigned bytes."""
    labels: Url | None = None
    """The idx1 file of labels. Default: no labels."""


class CifarData(DataBase):
    """CIFAR-10's own files: the binary version (.bin), or the Python version read safely."""

    format: Literal["cifar10"]
    files: list[Url] = Field(min_length=1)
    """data_batch_1.bin ... or test_batch.bin; order fixes the row numbers."""


class SvhnData(DataBase):
    """SVHN 'cropped digits' .mat files."""

    format: Literal["svhn"]
    file: Url
    """train_32x32.mat, test_32x32.mat or extra_32x32.mat. Label 10 becomes 0."""


class FolderData(DataBase):
    """A folder of images: one sub-folder per class, or no classes at all."""

    format: Literal["folder"]
    url: Url
    """The folder. Files are ordered by their relative path, which is also the sample id."""


class ParquetData(DataBase):
    """Parquet: encoded images as ``struct{bytes, path}`` (Hugging Face) or binary, raw tensors
    (uint8 or float lists, fixed-shape tensors), and what ``gradattr ingest`` writes."""

    format: Literal["parquet"]
    files: list[Url] = Field(min_length=1)
    """Files, folders, or patterns with '*'; a folder stands for its *.parquet, sorted."""
    image: str = "image"
    """Column of the image."""
    label: str | None = "label"
    """Column of the label: integers, or strings named in 'classes'. null: no labels."""
    id: str | None = None
    """Column of unique sample ids. Default: 'sample_id' if there is one, else the row number."""
    shape: list[Positive] | None = Field(default=None, min_length=3, max_length=3)
    """[channels, height, width] of a raw tensor column that does not say it itself."""
    mask: str | None = None
    """Column of a mask per image, of the image's size, not 0 in the region that it marks (where
    there can be no signal, or a patch): encoded images (PNG), or, with a raw image column, height
    x width booleans or numbers. A null marks nothing."""

    @property
    def has_own_masks(self) -> bool:
        return self.mask is not None


class NpzData(DataBase):
    """A NumPy .npz or .npy file (never with pickled objects)."""

    format: Literal["npz"]
    file: Url
    images: str = "images"
    """Array of images: (n, h, w), (n, h, w, c) or (n, c, h, w)."""
    labels: str | None = "labels"
    """Array of n integers. null: no labels."""
    masks: str | None = None
    """Array (n, h, w) of booleans or numbers, not 0 in an image's marked region: where there can
    be no signal, or a patch."""
    layout: Literal["nhwc", "nchw"] = "nhwc"
    """Order of axes of a 4-dimensional array."""

    @property
    def has_own_masks(self) -> bool:
        return self.masks is not None


class WebDatasetData(DataBase):
    """WebDataset tar shards: KEY.(jpg|jpeg|png|webp|ppm) with KEY.cls (or KEY.json 'label')."""

    format: Literal["webdataset"]
    files: list[Url] = Field(min_length=1)
    """Tar files or patterns with '*'."""


class TorchvisionData(DataBase):
    """A torchvision data set by class name, downloaded on first use where that is possible."""

    format: Literal["torchvision"]
    name: str = Field(pattern=r"^[A-Za-z0-9_]+$")
    """Class name in torchvision.datasets, e.g. 'CIFAR10'."""
    root: Url = "data"
    """Local folder of the files."""
    split: Literal["train", "test"] = "test"
    download: bool = False
    """Download when the files are not there."""


AnyData = Annotated[
    DigitsData
    | IdxData
    | CifarData
    | SvhnData
    | FolderData
    | ParquetData
    | NpzData
    | WebDatasetData
    | TorchvisionData
    | BlockMnistData
    | TheoryData,
    Field(discriminator="format"),
]


def _expand_data(value: Any) -> Any:
    """``data: digits`` and ``data: torchvision:CIFAR10`` are short for the object."""
    if isinstance(value, str):
        if value.startswith("torchvision:"):
            return {"format": "torchvision", "name": value.removeprefix("torchvision:")}
        return {"format": value}
    return value


DataSpec = Annotated[AnyData, BeforeValidator(_expand_data)]


class DataFile(Spec):
    """A file that holds a data part and nothing else: for ``gradattr ingest``."""

    data: DataSpec


class Preprocess(Spec):
    """From decoded pixels to the model's input, in this order: colour, resize, crop, scale to
    [0, 1], normalise. The rule for colours: palette, CMYK, YCbCr, LA and RGBA become RGB (alpha
    is dropped), 16-bit becomes 8-bit by its high byte, 1-bit becomes 0 and 255."""

    color: Literal["auto", "rgb", "gray"] = "auto"
    """'rgb': three channels; 'gray': one (ITU-R 601 luma); 'auto': encoded images become rgb,
    raw arrays keep the channels that they have."""
    resize: Positive | Pair | None = None
    """Pixels: one number for the shorter side, [height, width] for both. Antialiased bilinear."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How to resize."""
    crop: Positive | Pair | None = None
    """Pixels: size of the centre crop (zero-padded where the image is smaller)."""
    mean: list[float] | None = Field(default=None, min_length=1)
    """Per channel, in [0, 1] units; subtracted."""
    std: list[Annotated[float, Field(gt=0)]] | None = Field(default=None, min_length=1)
    """Per channel, in [0, 1] units; divided by."""

    @model_validator(mode="after")
    def _pairs(self) -> Preprocess:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std come together")
        if self.mean is not None and self.std is not None and len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} channels, std has {len(self.std)}")
        return self


__all__ = [
    "AnyData",
    "BlockMnistData",
    "CifarData",
    "DataBase",
    "DataFile",
    "DataSpec",
    "DigitsData",
    "FolderData",
    "IdxData",
    "Label",
    "NpzData",
    "ParquetData",
    "Preprocess",
    "SvhnData",
    "TheoryData",
    "TorchvisionData",
    "WebDatasetData",
]
