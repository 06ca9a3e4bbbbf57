"""What plans, scores and rewrites need of a plastic module, and the check that they have it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from fxplastic.errors import FxPlasticError, PlanError
from fxplastic.groups import ChannelGroup


class Plastic(Protocol):
    """What plans, scores and rewrites need of a `PlasticModule`."""

    @property
    def groups(self) -> Mapping[str, ChannelGroup]:
        """Channel groups by name."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of the groups."""
        ...

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """As in `torch.nn.Module`."""
        ...

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """As in `torch.nn.Module`."""
        ...


def require_plastic(plastic: object, error: type[FxPlasticError]) -> None:
    """Raise `error` unless `plastic` is a plastic module itself, not a wrapper around one."""
    kind = type(plastic).__name__
    inner = "module._orig_mod" if hasattr(plastic, "_orig_mod") else ""
    if isinstance(plastic, nn.DataParallel | nn.parallel.DistributedDataParallel):
        inner = "module.module"
    if inner:
        raise error(
            f"the model is wrapped in {kind}; pass what it wraps ({inner}), which shares its "
            "parameters with the wrapper"
        )
    if not isinstance(getattr(plastic, "groups", None), Mapping):
        raise error(f"{kind} has no channel groups; pass what fxplastic.plasticize returns")


def check_name(groups: Mapping[str, ChannelGroup], name: str) -> ChannelGroup:
    """The group called `name`, or PlanError listing close matches."""
    if name in groups:
        return groups[name]
    close = [known for known in groups if str(name) in known][:3]
    close = close or difflib.get_close_matches(str(name), groups, n=3, cutoff=0.5)
    hint = "did you mean " + " or ".join(map(repr, close)) if close else "see plastic.groups"
    raise PlanError(f"there is no group {name!r} among {len(groups)}; {hint}")
