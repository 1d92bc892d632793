"""What torch's operations are to a rule of back-propagation, by name; and which one a call is.

A name that stands nowhere here is unknown: a rule refuses it, so that nothing passes for linear
that may not be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: Their answer depends on shapes and types alone. Attributes have a dot in front.
SHAPE_ONLY = _words(
    ".shape .dtype .device .ndim .layout .requires_grad .grad_fn .grad .names .itemsize .nbytes "
    "._version size dim ndimension numel nelement stride storage_offset is_contiguous "
    "is_floating_point is_complex element_size __len__ __hash__ get_device data_ptr new_zeros "
    "new_ones new_empty new_full new_tensor zeros_like ones_like empty_like full_like rand_like "
    "randn_like _assert requires_grad_ is_same_size retain_grad _set_grad_enabled set_grad_enabled"
)

#: Values go elsewhere, or are copied, or become constants.
ARRANGING = _words(
    "reshape reshape_as view view_as flatten unflatten ravel permute transpose swapaxes swapdims t "
    ".T .mT movedim moveaxis squeeze unsqueeze expand expand_as broadcast_to contiguous clone to "
    "float double type_as cpu cuda cat concat concatenate hstack vstack stack split "
    "split_with_sizes tensor_split chunk unbind narrow select index_select __getitem__ __setitem__ "
    "gather take_along_dim roll flip rot90 pad repeat tile repeat_interleave pixel_shuffle "
    "pixel_unshuffle channel_shuffle unfold diagonal tril triu where masked_fill copy zero fill "
    "identity requires_grad broadcast_tensors"
)

#: In eval mode the identity.
DROPOUTS = _words(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout"
)

#: Weighted sums with weights that the shape decides.
AVERAGING = _words(
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d "
    "mean sum cumsum interpolate upsample fold"
)

#: Linear in the first argument; weights, if any, are the second, biases the third.
LAYERS = _words("linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")

#: Linear in each factor.
MATRIX_PRODUCTS = _words("matmul __matmul__ __rmatmul__ mm bmm mv dot addmm baddbmm einsum")

SUMS = _words("add sub subtract rsub __radd__ __rsub__ neg negative positive")
PRODUCTS = _words("mul multiply __rmul__")
QUOTIENTS = _words("div divide true_divide")

MAX_POOLS = _words(
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"
)

#: Functions of one variable, element by element; those in the first line are linear in pieces.
PIECEWISE = _words(
    "relu relu6 leaky_relu prelu rrelu hardtanh hardsigmoid threshold clamp clip clamp_min "
    "clamp_max abs absolute hardshrink softshrink"
)
ELEMENTWISE = PIECEWISE | _words(
    "gelu silu sigmoid expit tanh softplus elu celu selu mish hardswish logsigmoid log_sigmoid "
    "softsign tanhshrink erf exp"
)

#: Answers that no gradient passes: nothing is wrong until something is computed with them.
CUTTING = _words(
    "detach .data gt ge lt le eq ne greater greater_equal less less_equal not_equal isnan isinf "
    "isfinite argmax argmin sign signbit __eq__ __ne__ __gt__ __lt__ __ge__ __le__ all any "
    "logical_not logical_and logical_or round floor ceil trunc"
)

#: Numbers that leave torch, for Python to decide by.
DECISIONS = _words("__bool__ __float__ __int__ __index__ item tolist numpy __array__ __contains__")

NORMALISATIONS = _words(
    "layer_norm group_norm instance_norm rms_norm local_response_norm normalize norm vector_norm"
)
ATTENTION = _words("scaled_dot_product_attention multi_head_attention_forward")
SOFTMAX = _words("softmax log_softmax softmin gumbel_softmax cross_entropy logsumexp")

#: Where the flag ``inplace`` stands among the arguments.
_FLAGS = {
    **dict.fromkeys(("relu", "relu6", "silu", "hardswish", "hardsigmoid", "mish", "selu"), 1),
    **dict.fromkeys(("elu", "celu", "leaky_relu"), 2),
    **dict.fromkeys(("hardtanh", "threshold"), 3),
    "rrelu": 4,
}


@dataclass(frozen=True)
class Operation:
    """A call of a torch function."""

    name: str
    """Without the underscore of those that write in place; attributes with a dot in front."""
    func: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    in_place: bool
    """Whether the first argument is changed."""

    def argument(self, place: int, key: str, default: Any = None) -> Any:
        """The argument at this place, or by this name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(key, default)

    @property
    def first(self) -> Any:
        """The first argument, however it was passed."""
        return self.args[0] if self.args else self.kwargs.get("input", self.kwargs.get("self"))

    def call(self) -> Any:
        """As it was called."""
        return self.func(*self.args, **self.kwargs)

    def on(self, *tensors: Tensor) -> Any:
        """The same on other tensors in place of the first arguments, never in place."""
        args, kwargs = list(self.args), dict(self.kwargs)
        for key in ("input", "self"):
            if not args and key in kwargs:
                args = [kwargs.pop(key)]
        args[: len(tensors)] = tensors
        if self.in_place:
            flag = _FLAGS.get(self.name)
            kwargs.pop("inplace", None)
            if flag is not None and len(args) > flag:
                args[flag] = False
        return self._out_of_place()(*args, **kwargs)

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, in lists too."""
        found: list[Tensor] = []
        _collect((self.args, self.kwargs), found)
        return found

    def _out_of_place(self) -> Callable[..., Any]:
        name = getattr(self.func, "__name__", "")
        if not (name.endswith("_") and not name.endswith("__")):
            return self.func
        for home in (torch, F, Tensor):
            if hasattr(home, self.name):
                function: Callable[..., Any] = getattr(home, self.name)
                return function
        return self.func


def as_operation(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Operation:
    """The operation that a call of a torch function is."""
    name = getattr(func, "__name__", repr(func))
    if name in ("__get__", "__set__"):
        name = "." + getattr(getattr(func, "__self__", None), "__name__", "?")
    if name in ("requires_grad_",):
        return Operation(name, func, args, kwargs, False)
    if name.startswith("__i") and name.endswith("__") and name not in ("__int__", "__index__"):
        return Operation(name[3:-2], func, args, kwargs, True)
    if name.endswith("_") and not name.endswith("__"):
        return Operation(name[:-1], func, args, kwargs, True)
    flag = _FLAGS.get(name)
    in_place = name == "__setitem__" or bool(kwargs.get("inplace"))
    in_place = in_place or (flag is not None and len(args) > flag and bool(args[flag]))
    return Operation(name, func, args, kwargs, in_place)


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
