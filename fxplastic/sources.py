"""Which line of the user's code is running, or has raised."""

from __future__ import annotations

import contextlib
import functools
import sys
from pathlib import Path
from types import CodeType, FrameType

import torch

_OURS = str(Path(__file__).parent) + "/"
_TORCH = str(Path(torch.__file__).parent) + "/"
_HELPERS = (contextlib.__file__, functools.__file__)


@functools.cache
def is_user_code(code: CodeType) -> bool:
    """Whether `code` is neither torch's, nor ours, nor a helper of the standard library."""
    file = code.co_filename
    return not (file.startswith((_OURS, _TORCH, "<frozen", "<eval_with")) or file in _HELPERS)


def _describe(code: CodeType, line: int | None) -> str:
    return f"{code.co_filename}:{line} in {code.co_name}"


def here(stop: CodeType) -> str:
    """``"file:line in function"`` of the innermost user frame above the frame that runs `stop`.

    Where only torch's own code lies between (a model made of `nn.Sequential` alone), the outermost
    frame of torch's modules is named.
    """
    frame: FrameType | None = sys._getframe(1)
    inside = ""
    while frame is not None and frame.f_code is not stop:
        if is_user_code(frame.f_code):
            return _describe(frame.f_code, frame.f_lineno)
        if frame.f_code.co_filename.startswith(_TORCH + "nn/modules/"):
            inside = _describe(frame.f_code, frame.f_lineno)
        frame = frame.f_back
    return inside


def raised_at(error: BaseException) -> str:
    """``"file:line in function"`` of the innermost user frame that `error` went through.

    User frames are those below the first frame of ours, so that the caller of the library is not
    named in place of the model.
    """
    found, step = "", error.__traceback__
    entered = False
    while step is not None:
        code = step.tb_frame.f_code
        entered = entered or code.co_filename.startswith(_OURS)
        if entered and is_user_code(code):
            found = _describe(code, step.tb_lineno)
        step = step.tb_next
    return found
