"""Whether a checkpoint is all of a model and nothing else; what is drawn at random is no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
