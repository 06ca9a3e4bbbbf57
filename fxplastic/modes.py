"""Where training and eval mode may differ, so that one run on names can stand for both.

Of two graphs that are the same program, most nodes do the same in either mode: nothing that runs
in them asks for a training flag. The others (batch norms, dropout) run once in each mode, side by
side. This holds as long as what they give is named alike, and nothing is read later that only
training has written. `Apart` watches over the latter; where it does not hold, `ModesDiffer` is
raised, and each mode has a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxplastic.errors import FxPlasticError
from fxplastic.identity import Names, same_names
from fxplastic.meta import map_tree
from fxplastic.patched_calls import replaced
from fxplastic.sources import is_user_code

Lookup = Callable[[Tensor], Names]


class ModesDiffer(FxPlasticError):
    """One run cannot stand for both modes."""


def same_program(a: fx.Graph, b: fx.Graph) -> bool:
    """Whether two graphs have the same nodes, with the same names and arguments, in one order."""

    def named(leaf: Any) -> Any:
        return ("node", leaf.name) if isinstance(leaf, fx.Node) else (type(leaf), leaf)

    def told(node: fx.Node) -> Any:
        return map_tree((tuple(node.args), dict(node.kwargs)), named)

    return len(a.nodes) == len(b.nodes) and all(
        (m.op, m.name, m.target) == (n.op, n.name, n.target) and told(m) == told(n)
        for m, n in zip(a.nodes, b.nodes, strict=True)
    )


def asks_unseen(model: nn.Module) -> bool:
    """Whether code may learn of the mode where nobody sees it asked for.

    Scripted modules have a flag in C++; Python code may read the flag from a `__dict__`, by name.
    """
    return any(map(_asks_unseen, model.modules()))


def _asks_unseen(module: nn.Module) -> bool:
    kind: Any = type(module)
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
    scripted = isinstance(module, torch.jit.ScriptModule)
    return scripted or _names_the_flag(kind) or any(map(_says_training, hooks))


@cache
def _names_the_flag(kind: type) -> bool:
    """Whether a user's class has a method or property with the flag's name as a text in it."""
    return any(_says_training(part) for owner in kind.__mro__ for part in vars(owner).values())


def _says_training(part: Any) -> bool:
    function = getattr(part, "fget", None) or getattr(part, "__func__", part)
    code = getattr(function, "__code__", None)
    return isinstance(code, CodeType) and is_user_code(code) and _in_constants(code)


def _in_constants(code: CodeType) -> bool:
    return any(
        constant == "training" or (isinstance(constant, CodeType) and _in_constants(constant))
        for constant in code.co_consts
    )


def place_of(tensor: Tensor) -> int:
    """The memory that a tensor lies in."""
    return int(tensor.untyped_storage()._cdata)


class Flag:
    """`nn.Module.training` for the time of a run: one value for all modules, which notes readers.

    A data descriptor comes before the instances' own values.
    """

    def __init__(self) -> None:
        self.value = self.read = False

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> bool:
        if module is None:
            raise AttributeError("training")
        self.read = True
        return self.value

    def __set__(self, module: nn.Module, value: bool) -> None:
        raise ModesDiffer

    @contextmanager
    def shown(self) -> Iterator[None]:
        """All modules have this flag in place of their own, for a `with` block."""
        with replaced(nn.Module, "training", self):
            yield


class Apart:
    """Memory that may hold other values in training than in eval mode.

    Attributes:
        flag: the mode that runs now, as all modules see it.
        training: whether what runs now runs for training alone.
        wrote: whether anything was written to since this was last set to false.
        lasting: memory of parameters, buffers and constants.
    """

    def __init__(self) -> None:
        self.flag = Flag()
        self.training = self.wrote = False
        self.lasting: set[int] = set()
        self._written: dict[int, Tensor] = {}  # in training alone; kept, as a place is used again
        self._shared: dict[int, Tensor] = {}  # of results that are new in one mode, views in other

    def see(self, read: Iterable[Tensor], written: Iterable[Tensor]) -> None:
        """A call reads and writes these tensors.

        Raises:
            ModesDiffer: the other mode would read something else, or write elsewhere.
        """
        if not self.training and any(place_of(t) in self._written for t in read if self._written):
            raise ModesDiffer
        for tensor in written:
            self.write(tensor)

    def write(self, tensor: Tensor) -> None:
        """A tensor is written to, or named anew."""
        self.wrote = True
        if place_of(tensor) in self._shared:
            raise ModesDiffer
        if self.training:
            self._written[place_of(tensor)] = tensor

    def share(self, tensor: Tensor) -> None:
        """From here on the tensor's memory must not be written to."""
        self._shared[place_of(tensor)] = tensor


def compare(
    quiet: list[Tensor], trained: list[Tensor], given: list[Tensor], apart: Apart, lookup: Lookup
) -> None:
    """See to it that a node's results are named alike in both modes.

    Args:
        quiet: what it gave in eval mode.
        trained: what it gave in training.
        given: the tensors that it worked on.
        apart: is told of memory that one mode's result shares with another tensor, and the other
            mode's does not.
        lookup: names of a tensor.

    Raises:
        ModesDiffer: they are not.
    """
    if len(quiet) != len(trained):
        raise ModesDiffer
    places = {place_of(t) for t in given}
    for a, b in zip(quiet, trained, strict=True):
        alike = a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype
        if not alike or not _named_alike(lookup(a), lookup(b)):
            raise ModesDiffer
        here = {place_of(a), place_of(b)}
        if len(here) == 2 and (here & places or here & apart.lasting):
            apart.share(a)
            apart.share(b)


def same_plain(a: Any, b: Any) -> bool:
    """Whether two results are equal apart from the tensors in them."""

    def plain(leaf: Any) -> Any:
        return Tensor if isinstance(leaf, Tensor) else (type(leaf), leaf)

    return bool(map_tree(a, plain) == map_tree(b, plain))


def _named_alike(a: Names, b: Names) -> bool:
    carriers = all(f.carriers == g.carriers for f, g in zip(a.fields, b.fields, strict=False))
    rest = a.data == b.data and a.known is b.known and a.lone == b.lone
    return rest and carriers and same_names(a.fields, b.fields)
