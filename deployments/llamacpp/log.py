"""llama.cpp's own log, quietened: warnings and errors go to Python's `logging`, the rest nowhere."""

from __future__ import annotations

import ctypes
import logging

import llama_cpp

logger = logging.getLogger("groupqwen.llamacpp")

_LEVELS = {3: logging.WARNING, 4: logging.ERROR}  # ggml_log_level; 5 continues the line before


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _forward(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    if level in _LEVELS:
        logger.log(_LEVELS[level], text.decode("utf-8", "replace").rstrip())


def quieten() -> None:
    """Install the callback; harmless when called again."""
    llama_cpp.llama_log_set(_forward, ctypes.c_void_p(0))
