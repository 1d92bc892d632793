"""Where the paths of path methods begin, found again as the maps were made."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gradattr.attribution.baselines import Normalization
from gradattr.attribution.evaluator import Evaluator
from gradattr.attribution.paths.blur_path import BlurPath
from gradattr.attribution.paths.guided_path import GuidedPath
from gradattr.attribution.reference_points import reference_points
from gradattr.attribution.requests import MethodRequest
from gradattr.attribution.sampling import StraightPath

#: Sources whose maps follow one path from a baseline to the sample.
ONE_PATH = (StraightPath, BlurPath, GuidedPath)


def walks_one_path(request: MethodRequest) -> bool:
    """Whether the method's map follows one path per sample, which ``baseline_points`` can find."""
    return isinstance(request.source, ONE_PATH) and request.smooth is None


def baseline_points(
    evaluator: Evaluator,
    x: Tensor,
    requests: Sequence[MethodRequest],
    *,
    seeds: Sequence[int],
    normalization: Normalization | None = None,
    batch_size: int = 64,
) -> list[Tensor]:
    """x' (n, ...) of samples x (n, ...), one tensor per request: the very points at which
    ``attribute`` begins with the same arguments. A search is made once for all methods that start
    where it ends.

    Raises ValueError for a method that does not walk one path (``walks_one_path``), and where the
    numbers of samples and seeds differ.
    """
    for request in requests:
        if not walks_one_path(request):
            raise ValueError(f"method '{request.id}' does not walk one path from a baseline")
    if len(seeds) != len(x) or len(x) == 0:
        raise ValueError(f"seeds: {len(seeds)} given for {len(x)} samples; one each expected")
    return reference_points(
        evaluator,
        x,
        requests,
        seeds=seeds,
        normalization=normalization,
        batch_size=batch_size,
    )
