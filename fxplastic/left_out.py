"""What a model does around its computation that a traced forward leaves out, and the warnings."""

from __future__ import annotations

import warnings

from fxplastic.module import PlasticModule
from fxplastic.surroundings import hooked


def silent_hooks(plastic: object) -> tuple[str, ...]:
    """Modules with hooks that the traced forward does not fire: it runs what is in them instead.

    Those that had hooks when they were traced are called as wholes, and their hooks fire.

    >>> import fxplastic
    >>> from torch import nn, zeros
    >>> inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    >>> plastic = fxplastic.plasticize(nn.Sequential(inner, nn.Linear(4, 2)), zeros(2, 3))
    >>> handle = inner.register_forward_hook(print)
    >>> silent_hooks(plastic)
    ('0',)
    """
    if not isinstance(plastic, PlasticModule):
        return ()
    nodes = [node for graph in plastic.traced.graphs.values() for node in graph.nodes]
    whole = {str(node.target) for node in nodes if node.op == "call_module"}
    ran = {part for node in nodes for part in _above(str(node.meta.get("module", "")))}
    named = ((path, m) for path, m in plastic.named_modules() if path in ran and hooked(m))
    return tuple(path for path, _ in named if whole.isdisjoint(_above(path)))


def _above(path: str) -> set[str]:
    """A module's path and those of the modules around it, the root aside."""
    parts = path.split(".")
    return {".".join(parts[:n]) for n in range(1, len(parts) + 1)} - {""}


def warn_of_silent_hooks(plastic: object) -> None:
    """Say which hooks the caller's caller loses by going on with a rewritten module.

    Warns:
        UserWarning: by name, where there are any.
    """
    silent = silent_hooks(plastic)
    if silent:
        names = ", ".join(map(repr, silent[:5])) + (", ..." if len(silent) > 5 else "")
        warnings.warn(
            f"hooks of {names} were registered after the model was traced: the rewritten module "
            "runs what is in it, and does not fire them. Register hooks before plasticize, which "
            "then keeps such a module whole",
            stacklevel=3,
        )
