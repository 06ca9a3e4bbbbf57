"""Events for TensorBoard, where a run asks for them."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from fxplastic.errors import TrainingError
from fxplastic.training.config import Config
from fxplastic.training.records import Epoch

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Events:
    """A context in which epochs are written as events; nothing, unless ``config.tensorboard``.

    Args:
        config: of the run; events go to its folder.
        done: epochs that are done; events of later ones are dropped.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, config: Config, done: int) -> None:
        self._writer: SummaryWriter | None = None
        if not config.tensorboard:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                f"tensorboard=true, and {error}; pip install tensorboard, or leave it out"
            ) from None
        self._writer = SummaryWriter(config.out, purge_step=done + 1)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, epoch: Epoch) -> None:
        """Write an epoch's numbers, but for those of single classes."""
        if self._writer is None:
            return
        for name, value in epoch.row().items():
            if name != "epoch" and value is not None and not name.startswith("class_"):
                self._writer.add_scalar(name, value, epoch.epoch)
