"""A fitted guide that is loaded when it is asked for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any


class DeferredGuide:
    """Stands for the guide in a directory until somebody asks for it, because that loads models."""

    def __init__(self, directory: Path, load: Callable[[Path], Any]) -> None:
        self.directory, self._load = directory, load
        self._found: Any = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        state = "not loaded yet" if self._found is None else "loaded"
        return f"<guide in {self.directory}: {state}>"

    def loaded(self) -> Any:
        """The guide."""
        with self._lock:
            if self._found is None:
                self._found = self._load(self.directory)
            return self._found

    def save_pretrained(self, place: Path) -> None:
        """Copies the directory: what was never loaded has not changed."""
        shutil.copytree(self.directory, place)
