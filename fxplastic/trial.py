"""A float64 copy of a plastic module with real inputs: something that can be run and compared.

The copy is moved away from where mistakes hide: parameters that stand at a constant (a
zero-initialised layer scale, fresh norm statistics) are spread, as exactness belongs to the
structure and not to the weights. Running statistics are then taken from the inputs themselves:
drawn ones do not fit the activations, which grow from layer to layer until, in a hundred of them,
rounding alone (weights changed by 1e-15) moves the output by tenths. Dropout is the identity, as
copies of a neuron draw their own masks; what is drawn per sample (stochastic depth) stays, always
from the same random state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from fxplastic.errors import FxPlasticError
from fxplastic.module import PlasticModule

_SPREAD = 0.5
_DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
    torch.feature_dropout,
    torch.alpha_dropout,
    torch.feature_alpha_dropout,
)


@dataclass(frozen=True)
class Trial:
    """A float64 copy of the module with real inputs, ready to be compared."""

    module: PlasticModule
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    seed: int
    writes: bool = True
    """Whether a forward may write to parameters: copies to run then have their own."""

    @classmethod
    def of(
        cls, plastic: PlasticModule, args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
    ) -> Trial:
        """Copies `plastic`; keeps its own weights where randomised ones give no finite output."""
        device = next((p.device for p in plastic.parameters()), torch.device("cpu"))
        generator = torch.Generator().manual_seed(seed)
        real_args, real_kwargs = tree_map(
            lambda leaf: _real(leaf, device, generator), (tuple(args), dict(kwargs))
        )
        double = copy.deepcopy(plastic).double()
        for module in (_randomised(double, generator), double):
            subject = cls(module, real_args, real_kwargs, seed)
            if module is not double:
                subject._calibrate()
            outputs = subject.outputs(module, training=False)
            if all(bool(torch.isfinite(output).all()) for output in outputs):
                return replace(subject, writes=subject._written())
        raise FxPlasticError(
            "verify=True: the model's output is not finite in float64 on random inputs, so no "
            "group can be checked. Pass example inputs that are real tensors, or verify=False."
        )

    def _calibrate(self) -> None:
        """Take running statistics from the inputs, where the model runs in train mode.

        Of train mode itself nothing changes, as it does not read them.
        """
        copied, norms = copy.deepcopy(self.module).train(), _WholeMomentum()
        try:
            with torch.no_grad(), float64_throughout(), _seeded(self.seed), _NoDropout(), norms:
                copied(*self.args, **self.kwargs)
        except (
            Exception
        ):  # such as batch statistics over a single value: eval mode alone is checked
            return
        own = dict(self.module.named_buffers())
        for name, buffer in copied.named_buffers():
            if id(buffer) in norms.statistics and bool(torch.isfinite(buffer).all()):
                own[name].copy_(buffer)

    def _written(self) -> bool:
        """Whether a run in some mode writes to a parameter."""
        copied = replace(self, module=copy.deepcopy(self.module), writes=False)
        before = [p._version for p in copied.module.parameters()]
        copied.modes()
        copied.outputs(copied.module, training=False)
        return before != [p._version for p in copied.module.parameters()]

    def modes(self) -> tuple[bool, ...]:
        """Training flags to check: train mode too, where the model as it is runs in it."""
        try:
            self.outputs(self.module, training=True)
        except FxPlasticError:  # such as batch statistics over a single value
            return (False,)
        return (False, True)

    def outputs(self, module: nn.Module, training: bool) -> list[Tensor]:
        """Floating tensors that a copy of `module` returns, always from the same random state."""
        shared: dict[int, Any] = {} if self.writes else {id(p): p for p in module.parameters()}
        runner = copy.deepcopy(module, shared).train(training)
        try:
            with torch.no_grad(), float64_throughout(), _seeded(self.seed), _NoDropout():
                output = runner(*self.args, **self.kwargs)
        except Exception as error:
            shapes = [list(leaf.shape) for leaf in tree_leaves(self.args) if torch.is_tensor(leaf)]
            raise FxPlasticError(
                f"verify=True: the model does not run in float64 on random inputs of shapes "
                f"{shapes} ({type(error).__name__}: {error}). Pass example inputs that are real "
                "tensors, let the model follow its parameters' dtype, or pass verify=False."
            ) from error
        return [t for t in tree_leaves(output) if torch.is_tensor(t) and t.is_floating_point()]


def distance(result: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest absolute difference over the largest absolute value of `reference`."""
    worst = 0.0
    for one, other in zip(result, reference, strict=True):
        if other.numel():
            scale = max(float(other.abs().max()), torch.finfo(other.dtype).tiny)
            error = float((one - other).abs().max()) / scale
            worst = error if error != error else max(worst, error)
        if worst != worst:
            break
    return worst


def _real(leaf: Any, device: torch.device, generator: torch.Generator) -> Any:
    """A float64 random tensor for a floating leaf, real integers for others, else the leaf."""
    if not torch.is_tensor(leaf):
        return leaf
    if leaf.is_floating_point():
        return torch.randn(leaf.shape, generator=generator, dtype=torch.float64).to(device)
    if leaf.is_meta:
        fill = torch.ones if leaf.dtype == torch.bool else torch.zeros
        return fill(leaf.shape, dtype=leaf.dtype, device=device)
    return leaf.detach().to(device)


def _randomised(module: PlasticModule, generator: torch.Generator) -> PlasticModule:
    """A copy whose constant tensors (fresh norms, zero layer scales) are spread upwards.

    Only upwards, so that variances stay positive.
    """
    result = copy.deepcopy(module)
    with torch.no_grad():
        for tensor in (*result.parameters(), *result.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and tensor.min() == tensor.max():
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.add_(_SPREAD * noise.to(tensor.device))
    return result


class _NoDropout(TorchFunctionMode):
    """Makes dropout the identity; in a graph every dropout is a call of its own."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in _DROPOUTS:
            return args[0] if args else options["input"]
        if func is functional.scaled_dot_product_attention:
            args, options = (*args[:4], *((0.0,) if len(args) > 4 else ()), *args[5:]), options
            if "dropout_p" in options:
                options["dropout_p"] = 0.0
        return func(*args, **options)


class _WholeMomentum(TorchFunctionMode):
    """Makes running statistics those of the batch, and of no batch before it.

    Attributes:
        statistics: `id` of each tensor of running statistics that a norm was called with.
    """

    _NORMS = (functional.batch_norm, functional.instance_norm)
    _NAMES = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")

    def __init__(self) -> None:
        super().__init__()
        self.statistics: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        options = dict(kwargs or {})
        if func in self._NORMS:
            places = len(self._NAMES)
            given = dict(zip(self._NAMES, args, strict=False)) | options
            self.statistics |= {id(given.get(name)) for name in self._NAMES[1:3]}
            if len(args) < places:
                options["momentum"] = 1.0
            else:
                args = (*args[: places - 1], 1.0, *args[places:])
        return func(*args, **options)


_LESSER = frozenset({torch.float32, torch.float16, torch.bfloat16})
_CASTS = frozenset({Tensor.float, Tensor.half, Tensor.bfloat16})


class _Raised(TorchFunctionMode):
    """Makes float64 of every other precision that the model's code names.

    Where it says ``.float()``, a double model would stop, or round to seven digits.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _CASTS:
            func = Tensor.double
        args = tuple(map(_raised, args))
        return func(*args, **{key: _raised(value) for key, value in (kwargs or {}).items()})


def _raised(value: Any) -> Any:
    lesser = isinstance(value, torch.dtype) and value in _LESSER
    return torch.float64 if lesser else value


@contextmanager
def float64_throughout() -> Iterator[None]:
    """Lets tensors that a model makes or casts in its forward be float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Raised():
            yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds every generator for the block and puts the old states back."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
