"""A posterior as a directory: `posterior.json` for words, `draws.safetensors` for numbers."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lmppl.posterior.estimate import Estimate
from lmppl.posterior.expectation import ExpectationResult

if TYPE_CHECKING:
    from lmppl.posterior.posterior import Posterior

FORMAT = "lmppl-posterior/1"
_JSON = "posterior.json"
_ARRAYS = "draws.safetensors"
_NOT_SAVED = ("evaluator", "sampler", "guide")


def save_posterior(posterior: Posterior, directory: str | os.PathLike[str]) -> None:
    """Writes a posterior to a directory, which is replaced if it holds a posterior already.

    The files are written beside it and moved into place when they are complete.

    Raises: FileExistsError where the path is a file, or a directory with something else in it.
    """
    from safetensors.numpy import save_file

    target = Path(directory)
    check_destination(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, NDArray[Any]] = {}
    fields = {
        name: _encode(value, name, arrays)
        for name, value in posterior.fields().items()
        if name not in _NOT_SAVED
    }
    document = {"format": FORMAT, "fields": fields}
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, staging / _ARRAYS)
        text = json.dumps(document, allow_nan=False, indent=1)
        (staging / _JSON).write_text(text + "\n", encoding="ascii")
        if hasattr(posterior.guide, "save_pretrained"):
            posterior.guide.save_pretrained(staging / "guide")
        # A temporary directory is private; what is moved into place follows the user's mask.
        mask = os.umask(0)
        os.umask(mask)
        staging.chmod(0o777 & ~mask)
        if target.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
            os.replace(target, old)
            os.replace(staging, target)
            shutil.rmtree(old)
        else:
            os.replace(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_destination(directory: str | os.PathLike[str]) -> None:
    """Refuses a path that saving would destroy.

    Raises: FileExistsError where it is a file, or a directory with something else in it.
    """
    target = Path(directory)
    if target.is_dir():
        if not (target / _JSON).exists() and any(target.iterdir()):
            raise FileExistsError(f"{target} has files in it that are no saved posterior")
    elif target.exists():
        raise FileExistsError(f"{target} is a file; a posterior is saved as a directory")


def load_posterior(directory: str | os.PathLike[str]) -> Posterior:
    """The posterior that `Posterior.save` wrote: equal to the bit, without its functions.

    Expressions of the language can no longer be evaluated on it, except the names it holds; a
    saved guide stays in the `guide` directory for the library that made it.

    Raises: FileNotFoundError, or ValueError where the directory holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    from lmppl.posterior.posterior import Posterior

    source = Path(directory)
    if not (source / _JSON).exists():
        raise FileNotFoundError(f"{source} holds no saved posterior ({_JSON} is missing)")
    try:
        document = json.loads((source / _JSON).read_text(encoding="ascii"))
    except ValueError as error:
        raise ValueError(f"{source / _JSON} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(f"{source / _JSON} is not in the format {FORMAT}")
    if not (source / _ARRAYS).exists():
        raise FileNotFoundError(f"{source} is not whole ({_ARRAYS} is missing)")
    try:
        arrays = load_file(source / _ARRAYS)
    except SafetensorError as error:
        raise ValueError(f"{source / _ARRAYS} is damaged: {error}") from error
    fields = _decode(document["fields"], arrays)
    if fields["log_evidence"] is not None:
        fields["log_evidence"] = Estimate.from_dict(fields["log_evidence"])
    fields["expectations"] = [ExpectationResult.from_dict(each) for each in fields["expectations"]]
    return Posterior(**fields)


def _encode(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    """The value as JSON; arrays are put aside under their path, non-finite numbers named."""
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {"__array__": path}
    if isinstance(value, (Estimate, ExpectationResult)):
        return _encode(value.to_dict(), path, arrays)
    if isinstance(value, dict):
        return {key: _encode(item, f"{path}/{key}", arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item, f"{path}/{index}", arrays) for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {"__float__": repr(value)}
    return value


def _decode(value: Any, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"__array__"}:
            return arrays[value["__array__"]]
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {key: _decode(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    return value
