"""EK-FAC: an approximation of the Fisher matrix that is inverted once and for all directions.

For a loss that is -log p the Fisher matrix F = E_x E_{y ~ p(y|x)} [g g^T] is the Gauss-Newton
matrix. EK-FAC (George et al. 2018; for influence Grosse et al. 2023) keeps of it

    linear layers, convolutions   a block each, diagonal in the basis of Kronecker factors (K-FAC),
                                  with the true second moments in that basis as eigenvalues
    all other parameters          the diagonal E[g^2]

and nothing between layers. It costs two passes over the training examples, once; then the inverse
of any number of directions is a few matrix products, and the norm of (F + λ I)^-1 g_i of a training
example comes with its backward pass. It is exact for a single layer of which only one example is
known, or whose inputs and output gradients are independent; else it lies between no curvature and
the true one. Where a model is small enough, ``Curvature`` is the reference.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradattr.errors import MethodError
from gradattr.influence.directions import Directions
from gradattr.influence.fisher import FISHERS, Batches, Examples, Fisher, FisherStream
from gradattr.influence.kronecker import Block, Moments, Owner
from gradattr.influence.layers import Call, FactoredLayer, Layer
from gradattr.influence.products import GradientProducts


class Ekfac:
    """The fitted approximation. Make one with ``fit``, or with ``from_state``.

    ``blocks``: of the layers with one; ``diagonal``: {parameter name: (*shape)} of the rest.
    """

    def __init__(
        self,
        products: GradientProducts,
        blocks: Mapping[Owner, Block],
        diagonal: Mapping[str, Tensor],
        fisher: Fisher,
        examples: int,
    ) -> None:
        self.products = products
        self.blocks = dict(blocks)
        self.diagonal = dict(diagonal)
        self.fisher = fisher
        self.examples = examples

    @classmethod
    def fit(
        cls,
        products: GradientProducts,
        examples: Examples | Batches,
        *,
        fisher: Fisher = "sampled",
        seed: int = 0,
    ) -> Ekfac:
        """Two passes over ``examples``: (x (n, ...), y (n,)), or a function that begins the stream
        of such batches anew, so that a data set can be read shard by shard.

        ``fisher``: labels 'sampled' from the model's softmax, one for each example, a function of
        ``seed`` and of the example's place in the stream, not of the batches; 'exact', every class
        by its probability, at the cost of a backward pass for each; or 'empirical', the labels
        given, which is no Gauss-Newton matrix. The first two take the loss for -log p.

        Raises MethodError without examples, for a stream that changes, for an unknown ``fisher``,
        and for a model whose outputs are no (n, classes) where labels are to be drawn.
        """
        stream = FisherStream(products, examples, fisher, seed)
        moments, squares = _first_pass(stream)
        blocks: dict[Owner, Block] = {}
        for owner in list(moments):
            bases = moments.pop(owner).bases(stream.dtype)
            empty = torch.zeros(len(bases[0]), len(bases[1]), dtype=torch.float64)
            blocks[owner] = Block(owner, *bases, empty.to(bases[0].device))
        _second_pass(stream, blocks)
        _fill_up(products, blocks, squares)
        for block in blocks.values():
            block.eigenvalues = (block.eigenvalues / stream.count).to(stream.dtype)
        diagonal = {n: (v / stream.count).to(stream.dtype) for n, v in squares.items()}
        return cls(products, blocks, diagonal, fisher, stream.count)

    def solve(self, directions: Directions, damping: float) -> Directions:
        """(F + damping I)^-1 times each direction, exactly, for the approximation F.

        There is no residual: how far this is from the inverse of the Gauss-Newton matrix itself is
        not known from here. ``Curvature.times`` of the result would tell, for a pass over the data.
        """
        _check_damping(damping)
        shapes = self.products.parameter_shapes()
        values: dict[str, Tensor] = {}
        for owner, block in self.blocks.items():
            solved = block.solve(owner.matrix(directions.values), damping)
            values.update(owner.split(solved, shapes))
        for name, squares in self.diagonal.items():
            values[name] = directions.values[name] / (squares + damping)
        return Directions({name: values[name] for name in directions.values})

    def inverse_norms(self, x: Tensor, y: Tensor, damping: float) -> Tensor:
        """||(F + damping I)^-1 g_i|| (n,) of training examples, one backward pass per batch."""
        return self.dots_and_inverse_norms(x, y, None, damping)[1]

    def dots_and_inverse_norms(
        self, x: Tensor, y: Tensor, directions: Directions | None, damping: float
    ) -> tuple[Tensor, Tensor]:
        """<g_i, direction> (n, q) and ||(F + damping I)^-1 g_i|| (n,) from the same pass."""
        _check_damping(damping)
        queries = 0 if directions is None else len(directions)
        dots = torch.zeros(len(x), queries, dtype=torch.float64, device=x.device)
        squares = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        prepared = {}
        if directions is not None and len(x):
            layers = self.products.unfolded(x, y).layers
            prepared = {layer: layer.prepare(directions) for layer in layers}

        def by_layer(rows: slice, layer: Layer, calls: list[Call]) -> None:
            block = self._block(layer)
            if directions is not None:
                found = layer.products(calls, prepared[layer], False)[0]
                dots[rows] += 0.0 if found is None else found
            if block is not None and isinstance(layer, FactoredLayer):
                squares[rows] += block.inverse_squares(layer, calls, damping)
            else:
                lengths(rows, layer.gradients(calls))

        def lengths(rows: slice, gradients: Mapping[str, Tensor]) -> None:
            for name, values in gradients.items():
                solved = (values / (self.diagonal[name] + damping)).flatten(1)
                squares[rows] += torch.linalg.vector_norm(solved, dim=1).square()

        def by_example(rows: slice, gradients: dict[str, Tensor]) -> None:
            lengths(rows, gradients)
            if directions is not None:
                for name, values in gradients.items():
                    dots[rows] += values.flatten(1) @ directions.values[name].flatten(1).T

        self.products.visit_layers(x, y, by_layer, by_example)
        return dots.to(x.dtype), squares.sqrt().to(x.dtype)

    def mean_eigenvalue(self) -> float:
        """The mean over all parameters: a scale to choose the damping by (a tenth of it, say)."""
        parts = [block.eigenvalues for block in self.blocks.values()] + [*self.diagonal.values()]
        total = sum(float(part.double().sum()) for part in parts)
        return total / sum(part.numel() for part in parts)

    def state(self) -> dict[str, Tensor]:
        """Everything, as named tensors: for a file, for another process. See ``from_state``."""
        found = {
            "examples": torch.tensor(self.examples),
            "fisher": torch.tensor(FISHERS.index(self.fisher)),
        }
        for owner, block in self.blocks.items():
            of = f"{owner.weight or ''}|{owner.bias or ''}"
            found[f"basis_out|{of}"] = block.basis_out.contiguous()
            found[f"basis_in|{of}"] = block.basis_in.contiguous()
            found[f"eigenvalues|{of}"] = block.eigenvalues.contiguous()
        return found | {f"diagonal|{name}": value for name, value in self.diagonal.items()}

    @classmethod
    def from_state(cls, products: GradientProducts, state: Mapping[str, Tensor]) -> Ekfac:
        """What ``state`` gave, for products of the same model and parameters, on its device.

        Raises MethodError for the state of other parameters.
        """
        blocks, diagonal = {}, {}
        like = next(products.model.parameters())
        state = {k: v.to(like) if v.is_floating_point() else v for k, v in state.items()}
        for key, value in state.items():
            kind, _, of = key.partition("|")
            if kind == "diagonal":
                diagonal[of] = value
            elif kind == "eigenvalues":
                weight, _, bias = of.partition("|")
                owner = Owner(weight or None, bias or None)
                bases = state[f"basis_out|{of}"], state[f"basis_in|{of}"]
                blocks[owner] = Block(owner, *bases, value)
        _check_fit(products, blocks, diagonal)
        fisher = FISHERS[int(state["fisher"])]
        return cls(products, blocks, diagonal, fisher, int(state["examples"]))

    def _block(self, layer: Layer) -> Block | None:
        owner = Owner.of(layer)
        return None if owner is None else self.blocks.get(owner)


def _first_pass(stream: FisherStream) -> tuple[dict[Owner, Moments], dict[str, Tensor]]:
    """Second moments of every layer that gets a block; sums of squares of all other gradients."""
    moments: dict[Owner, Moments] = {}
    squares: dict[str, Tensor] = {}

    def add(values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            more = value.square().sum(0).double()
            squares[name] = squares[name] + more if name in squares else more

    def by_layer(layer: Layer, calls: list[Call], first: bool) -> None:
        owner = Owner.of(layer)
        if owner is None or not isinstance(layer, FactoredLayer):
            add(layer.gradients(calls))
        else:
            moments.setdefault(owner, Moments()).add(owner, layer, calls, inputs_too=first)

    stream.run(by_layer, add)
    return moments, squares


def _second_pass(stream: FisherStream, blocks: dict[Owner, Block]) -> None:
    """Sums of squares in the bases of the blocks."""

    def by_layer(layer: Layer, calls: list[Call], _first: bool) -> None:
        owner = Owner.of(layer)
        if owner is not None and isinstance(layer, FactoredLayer):
            blocks[owner].eigenvalues += blocks[owner].sum_of_squares(layer, calls)

    stream.run(by_layer, lambda _values: None)


def _fill_up(
    products: GradientProducts,
    blocks: Mapping[Owner, Block],
    squares: dict[str, Tensor],
) -> None:
    """Parameters that no example moved have a curvature of zero."""
    covered = {name for owner in blocks for name in owner.names}
    parameters = dict(products.model.named_parameters(remove_duplicate=False))
    for name in products.names:
        if name not in covered and name not in squares:
            squares[name] = torch.zeros_like(parameters[name], dtype=torch.float64)


def _check_fit(
    products: GradientProducts, blocks: Mapping[Owner, Block], diagonal: Mapping[str, Tensor]
) -> None:
    shapes = products.parameter_shapes()
    covered = sorted([*diagonal, *(name for owner in blocks for name in owner.names)])
    fits = covered == sorted(shapes) and all(
        value.shape == shapes[name] for name, value in diagonal.items()
    )
    for owner, block in blocks.items():
        count = sum(shapes[name].numel() for name in owner.names if name in shapes)
        fits = fits and block.eigenvalues.numel() == count
    if not fits:
        some = ", ".join(sorted(set(covered) ^ set(shapes))[:5]) or "shapes differ"
        raise MethodError(
            f"this EK-FAC state is of another model or other parameters ({some}); fit it anew"
        )


def _check_damping(damping: float) -> None:
    if damping <= 0:
        raise MethodError(f"damping {damping} was given; EK-FAC needs a number above 0")
