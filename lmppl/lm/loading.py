"""Language models by name: `builtin:…`, a directory, or a Hugging Face hub id; once per process."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from lmppl.errors import closest
from lmppl.lm.checkpoints import STRICTLY, refused_directory, refused_weights
from lmppl.lm.names import BUILTIN, builtin_models
from lmppl.lm.quiet import quiet_transformers
from lmppl.lm.refusal import first_line, refusal

if TYPE_CHECKING:
    from lmppl.lm.huggingface import HuggingFaceLM

_WEIGHTS = ("*.safetensors", "*.bin")
_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_Key = tuple[str, str | None, str, str, bool]
_loaded: dict[_Key, HuggingFaceLM] = {}
_lock = threading.Lock()


def load_language_model(
    source: str | Path,
    *,
    revision: str | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    base_dir: str | Path | None = None,
) -> HuggingFaceLM:
    """The causal language model named `source`, from memory if this process has loaded it before.

    `source` is `builtin:NAME`, a directory (tried first, relative to `base_dir`), or a hub id.
    `dtype` is by default float32 on a CPU and the checkpoint's own elsewhere.  The device "auto"
    spreads the layers over all devices, as accelerate does it.  A directory whose
    files have changed is loaded again.  Nothing is printed and no global random state is moved.

    Raises:
        InferenceError: LMP910, nothing found under this name; LMP911, found but not loadable;
            LMP914, a tokenizer that is no map from tokens to bytes; LMP940, weights that are not
            all of the model's and no others; LMP941, an end token outside the vocabulary.
    """
    spread = device == "auto"
    place = first_device() if spread else torch.device("cpu" if device is None else device)
    number = _number_type(dtype, place)
    path = _resolve(str(source), base_dir)
    where = str(source) if path is None else str(path)
    fingerprint = _fingerprint(where, path)
    key = (fingerprint, revision, str(number), str(device or "cpu"), trust_remote_code)
    with _lock:
        if (known := _loaded.get(key)) is None:
            known = _load(
                str(source),
                where,
                path,
                fingerprint,
                revision,
                number,
                None if spread else place,
                trust_remote_code,
            )
            _loaded[key] = known
        return known


def first_device() -> torch.device:
    """The device that a model spread over all of them begins on."""
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _number_type(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """The dtype asked for; None is the checkpoint's own."""
    if dtype is None:
        # Half precision on a CPU is slower than float32, and less exact for nothing.
        return torch.float32 if device.type == "cpu" else None
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise refusal(
            "LMP911",
            f"there is no dtype {dtype!r} for a language model",
            help=f"use one of {', '.join(_DTYPES)}",
        )
    return _DTYPES[dtype]


def _resolve(source: str, base_dir: str | Path | None) -> Path | None:
    """The directory that `source` names; None: it can only be a hub id."""
    if source.startswith("builtin:"):
        known = builtin_models()
        # By its name and not by its path: `builtin:../..` is no model of ours.
        if source in known:
            return BUILTIN / source.removeprefix("builtin:")
        near = closest(source, known)
        raise refusal(
            "LMP910",
            f"there is no language model {source!r} in this package",
            notes=(f"it has {', '.join(known) or 'none'}",),
            help=f"did you mean {near!r}?" if near else None,
        )
    path = Path(base_dir or ".") / Path(source).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise refusal(
                "LMP911",
                f"the directory {source} holds no language model: it has no config.json",
                help="name a directory written by save_pretrained",
            )
        return path.resolve()
    if _exists(path):
        raise refusal(
            "LMP911",
            f"{source} is not a directory, and a language model is one",
            help="name a directory written by save_pretrained",
        )
    return None


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        # Too long or with a NUL: no path, and no hub id either, which the hub says.
        return False


def _fingerprint(where: str, path: Path | None) -> str:
    if path is None:
        return where
    stats = [(file.name, file.stat()) for file in sorted(path.iterdir()) if file.is_file()]
    return repr((where, [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]))


def _load(
    source: str,
    where: str,
    path: Path | None,
    fingerprint: str,
    revision: str | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
    trust_remote_code: bool,
) -> HuggingFaceLM:
    import transformers

    from lmppl.lm.huggingface import HuggingFaceLM

    options = {
        "revision": revision if path is None else None,
        "trust_remote_code": trust_remote_code,
        "local_files_only": path is not None,
    }
    options = {name: value for name, value in options.items() if value is not None}
    if path is not None and (refused := refused_directory(path, source)):
        raise refusal("LMP911", refused.message, notes=refused.notes, help=refused.help)
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            tokenizer = transformers.AutoTokenizer.from_pretrained(where, **options)
            loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
                where,
                dtype="auto" if dtype is None else dtype,
                device_map="auto" if device is None else None,
                **options,
                **STRICTLY,
            )
            model, report = loaded
            if device is not None:
                model = model.to(device)
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and its own for one and the same cause.
        raise _explain_failure(source, path, revision, trust_remote_code, error) from error
    if refused := refused_weights(model, report, path, source):
        raise refusal("LMP940", refused.message, notes=refused.notes, help=refused.help)
    model.requires_grad_(False)

    def digest() -> str | None:
        # Files that have changed since say nothing about the weights in memory.
        if path is None or _fingerprint(where, path) != fingerprint:
            return None
        return _digest(path)

    return HuggingFaceLM(model, tokenizer, name=source, digest=digest)


def _explain_failure(
    source: str,
    path: Path | None,
    revision: str | None,
    trust_remote_code: bool,
    error: Exception,
) -> Exception:
    reason = first_line(error) or repr(error)
    if not trust_remote_code and "trust_remote_code" in str(error):
        return refusal(
            "LMP911",
            f"{source} brings its own Python code, which is not run unless asked for",
            help="read that code, then load it with trust_remote_code=True",
        )
    if path is not None:
        files = ", ".join(sorted(file.name for file in path.iterdir())[:12])
        return refusal(
            "LMP911",
            f"the directory {source} cannot be loaded as a causal language model",
            notes=(reason, f"it holds {files}"),
            help="it needs config.json, weights in safetensors, and tokenizer.json",
        )
    at = f" at revision {revision}" if revision else ""
    return refusal(
        "LMP910",
        f"there is no language model {source!r}{at} to load",
        notes=(
            "tried: a directory of that name, then the Hugging Face hub and its local cache",
            reason,
        ),
        help="check the name and the network, or give the path of a directory; "
        f"without a network, {', '.join(builtin_models()) or 'a local directory'} always works",
    )


def _digest(path: Path) -> str:
    """SHA-256 of the names and contents of the files that determine the probabilities."""
    sha = hashlib.sha256()
    names = {file for pattern in _WEIGHTS for file in path.glob(pattern)}
    names.update(path.glob("*.json"))
    for file in sorted(names):
        sha.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()
