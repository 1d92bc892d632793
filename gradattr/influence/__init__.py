"""Which training examples, and which of their pixels, moved a prediction. Torch in, torch out.

products = GradientProducts(model)
queries = products.directions(x_test, y_test)
scores = grad_cos(products, x_train, y_train, queries).values        # (train, test)
maps = tfa_maps(products, x_train, y_train, queries, pairs).values   # (pairs, c, h, w)
"""

from gradattr.influence.curvature import Curvature, Solution
from gradattr.influence.directions import Directions
from gradattr.influence.ekfac import Ekfac
from gradattr.influence.insertion import pixel_order, random_order, step_tests
from gradattr.influence.layer_maps import agreement_maps, layer_maps
from gradattr.influence.maps import Maps, tfa_maps, tracin_maps
from gradattr.influence.products import GradientProducts
from gradattr.influence.scores import (
    Scores,
    grad_cos,
    grad_dot,
    influence,
    random_scores,
    relatif,
    tracin,
)
from gradattr.influence.sketch import (
    CountSketch,
    Sketches,
    candidates,
    estimated_cosines,
    estimated_dots,
)

__all__ = [
    "CountSketch",
    "Curvature",
    "Directions",
    "Ekfac",
    "GradientProducts",
    "Maps",
    "Scores",
    "Sketches",
    "Solution",
    "agreement_maps",
    "candidates",
    "estimated_cosines",
    "estimated_dots",
    "grad_cos",
    "grad_dot",
    "influence",
    "layer_maps",
    "pixel_order",
    "random_order",
    "random_scores",
    "relatif",
    "step_tests",
    "tfa_maps",
    "tracin",
    "tracin_maps",
]
