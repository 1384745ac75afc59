"""Whether a checkpoint is all of a model and nothing else; what is drawn at random is no model."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_SHOWN = 4
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")

# What is asked of `from_pretrained` so that `faults_of` can tell what it did.
STRICTLY: Mapping[str, Any] = {
    "use_safetensors": True,
    "output_loading_info": True,
    # Told of, and then refused here by name.
    "ignore_mismatched_sizes": True,
}


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a directory or what was loaded from it is no model, in the words of a diagnostic."""

    message: str
    notes: tuple[str, ...]
    help: str


def refused_directory(directory: Path, name: str) -> Refused | None:
    """Why nothing is loaded from a directory, called `name`; None where it may be."""
    if pickles := pickled_weights(directory):
        return Refused(
            f"the weights of {name} are in {', '.join(pickles)}, and only safetensors are read",
            ("a pickle can run any code while it is read",),
            "load it where you trust it, and save it with model.save_pretrained",
        )
    if outside := refused_files(directory):
        return Refused(
            f"the directory {name} is not the data of one model and nothing else",
            outside,
            "load the model where you trust it, and save it whole with model.save_pretrained",
        )
    return None


def refused_weights(
    model: Any, report: Mapping[str, Any], directory: Path | None, name: str
) -> Refused | None:
    """Why what was loaded is not the model called `name`; `directory` is None of a hub's."""
    faults = faults_of(model, report)
    if not faults and directory is not None:
        faults = faults_of_tensors(directory, model)
    if not faults:
        return None
    return Refused(
        f"the weights of {name} are not those of the model that its config.json describes",
        faults,
        "save the directory again with model.save_pretrained",
    )


def faults_of(model: Any, report: Mapping[str, Any]) -> tuple[str, ...]:
    """Why the weights that were loaded are not those of the model, a sentence each.

    `report` is the loading info of transformers, which leaves out weights that are tied to others
    and buffers that older versions saved.
    """
    faults = []
    if missing := sorted(report["missing_keys"]):
        faults.append(f"the checkpoint lacks {_listed(missing)}, which would be drawn at random")
    if unexpected := sorted(report["unexpected_keys"]):
        faults.append(
            f"the model that config.json describes has no place for {_listed(unexpected)}"
        )
    if mismatched := sorted(report["mismatched_keys"]):
        shown = [f"{name} ({list(found)} for {list(asked)})" for name, found, asked in mismatched]
        faults.append(f"the shape of these does not fit config.json: {_listed(shown)}")
    faults.extend(str(message).splitlines()[0] for message in report.get("error_msgs") or ())
    if not faults and (wrong := _not_finite(model)):
        faults.append(f"these weights are not finite: {_listed(wrong)}")
    if not faults and (wrong := [n for n, b in model.named_buffers() if _has_nan(n, b)]):
        faults.append(f"config.json leads to numbers that are not finite: {_listed(wrong)}")
    return tuple(faults)


def pickled_weights(directory: Path) -> tuple[str, ...]:
    """The names of weight files that a directory has instead of safetensors."""
    files = [file.name for file in sorted(directory.iterdir()) if file.is_file()]
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in files):
        return ()
    return tuple(name for name in files if name.endswith(_PICKLES))


def _not_finite(model: Any) -> list[str]:
    wrong = []
    for name, tensor in model.named_parameters():
        # Numbers of a byte have no reductions in torch.
        if tensor.numel() and tensor.is_floating_point() and tensor.element_size() > 1:
            # One pass without a copy; NaN goes through both.
            low, high = torch.aminmax(tensor.detach())
            if not bool(torch.isfinite(low)) or not bool(torch.isfinite(high)):
                wrong.append(name)
    return wrong


def _has_nan(name: str, buffer: torch.Tensor) -> bool:
    """Whether a buffer is broken; only frequencies of rotations are known to have no infinity."""
    if not buffer.is_floating_point() or buffer.element_size() == 1:
        return False
    wrong = buffer.isnan() if not name.endswith("inv_freq") else ~buffer.isfinite()
    return bool(wrong.any())


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# What lies in a directory -------------------------------------------------------------------------


def refused_files(directory: Path) -> tuple[str, ...]:
    """Why a directory is not only the data of one model, a sentence each; none: it may be loaded.

    A model is what lies in its directory, and is read as data: no pipe or device, no file
    elsewhere by a link or by the index of the shards, no adapter of a model that lies elsewhere.
    In the cache of the Hugging Face hub, whose files are links to its own blobs, those count as
    inside.
    """
    faults = []
    inside = [directory.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parents[1] / "blobs")
    for file in sorted(directory.iterdir()):
        if file.is_symlink() and not any(file.resolve().is_relative_to(root) for root in inside):
            faults.append(f"{file.name} is a link that leads out of the directory")
        elif not (file.is_file() or file.is_dir() or file.is_symlink()):
            faults.append(f"{file.name} is a pipe, a socket or a device, not a file")
    if (directory / "adapter_config.json").exists():
        faults.append("adapter_config.json makes it an adapter of a model that lies elsewhere")
    if not faults:
        faults.extend(_faults_of_index(directory))
    return tuple(faults)


def _faults_of_index(directory: Path) -> Iterator[str]:
    for index in sorted(directory.glob("*.safetensors.index.json")):
        for shard in sorted(_shards(index)):
            if Path(shard).name != shard or "\\" in shard:
                yield f"{index.name} names the file {shard!r}, which is not in the directory"


def _shards(index: Path) -> set[str]:
    """The files that an index of shards names."""
    try:
        return {str(file) for file in json.loads(index.read_bytes())["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Whatever it is, transformers refuses it with the reason.
        return set()


def faults_of_tensors(directory: Path, model: Any) -> tuple[str, ...]:
    """Why the tensors in the files of a directory are not plainly the weights of its model.

    Numbers that are not floating point would be cast, a quantised model without its scales
    and an imaginary part without a word. Two names for one weight, with and without the prefix of
    the model's body, leave open which of them counts. Quantised checkpoints, which say so in
    their config.json, are left to transformers.
    """
    from safetensors import safe_open

    if getattr(model, "hf_quantizer", None) is not None:
        return ()
    whole = directory / "model.safetensors"
    files = [whole] if whole.is_file() else []
    for index in () if files else sorted(directory.glob("*.safetensors.index.json")):
        files.extend(directory / shard for shard in sorted(_shards(index)))
    prefix = f"{model.base_model_prefix}."
    weights = {name.removeprefix(prefix) for name, _ in model.named_parameters()}
    count: Counter[str] = Counter()
    cast = []
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                if (weight := name.removeprefix(prefix)) in weights:
                    count[weight] += 1
                    if not (kind := file.get_slice(name).get_dtype()).startswith(("F", "BF")):
                        cast.append(f"{name} ({kind})")
    faults = []
    if cast:
        faults.append(f"these weights are not floating point: {_listed(sorted(cast))}")
    if twice := sorted(name for name, number in count.items() if number > 1):
        faults.append(f"the checkpoint has these weights twice: {_listed(twice)}")
    return tuple(faults)
