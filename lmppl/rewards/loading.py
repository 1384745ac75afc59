"""From the declaration of a reward to what scores texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lmppl.errors import Diagnostic, InferenceError, InternalError
from lmppl.files import Files, Folder
from lmppl.ir.model import Reward, RewardSource
from lmppl.rewards.ensemble import EnsembleSource
from lmppl.rewards.host import HostSource
from lmppl.rewards.scorer import Scorer, Source, failure
from lmppl.rewards.texts import CountSource, read_lexicon
from lmppl.rewards.vader import VaderSource


def load_reward(
    reward: Reward,
    *,
    base_dir: str,
    files: Files | None = None,
    device: str | None = None,
    dtype: str | None = None,
    host: Callable[..., Any] | None = None,
) -> Scorer:
    """The scorer of a declared reward, its files and models loaded.

    Paths are relative to `base_dir`. `files` says what may be read: by default what is beneath
    `base_dir`; models may lie anywhere. `device` and `dtype` concern language models that score;
    without them they run on the CPU in the precision they were saved in. `host` is the function
    that the host program gave for an extern reward.

    Raises:
        InferenceError: a file or model cannot be loaded, or does not fit (LMP919).
    """
    try:
        reads = Folder.of(base_dir) if files is None else files
        source = _source(reward, reward.source, base_dir, reads, device, dtype, host)
    except InferenceError as error:
        raise _located(error, reward) from error
    return Scorer(reward, source)


def _source(
    reward: Reward,
    described: RewardSource,
    base_dir: str,
    files: Files,
    device: str | None,
    dtype: str | None,
    host: Callable[..., Any] | None,
) -> Source:
    arguments = described.arguments
    match described.kind:
        case "vader":
            return VaderSource(_option(arguments, "component", "compound"))
        case "lexicon":
            return read_lexicon(
                str(arguments["path"]),
                files,
                reduce=_option(arguments, "reduce", "sum"),
                ignore_case=_option(arguments, "ignore_case", True),
            )
        case "count":
            pattern = str(arguments["pattern"])
            return CountSource(pattern, _option(arguments, "ignore_case", False))
        case "classifier" | "reward_model":
            # transformers takes seconds to import, and most programs need none of it here.
            from lmppl.rewards.huggingface import load_sequence_classifier

            source: Source = load_sequence_classifier(
                _model(base_dir, str(arguments["model"])),
                head="class" if described.kind == "classifier" else "score",
                label=_option(arguments, "label", None),
                revision=_option(arguments, "revision", None),
                truncate=_option(arguments, "truncate", False),
                device=device,
                dtype=dtype,
            )
            return source
        case "ensemble":
            return EnsembleSource(
                tuple(
                    _source(reward, member, base_dir, files, device, dtype, host)
                    for member in described.members
                )
            )
        case "extern":
            if host is None:
                raise failure(
                    "LMP919",
                    f"reward `{reward.name}` was not given",
                    help=f"bind it: model({reward.name}=function)",
                )
            return HostSource(
                host,
                reward.name,
                is_uncertain=reward.type.kind == "uncertain",
                reads_tokens=reward.inputs == "tokens",
                is_text=tuple(p.type.kind == "string" for p in reward.parameters),
            )
    raise InternalError(f"rewards from {described.kind!r} cannot be loaded")


def _option(arguments: Mapping[str, object], name: str, default: Any) -> Any:
    value = arguments.get(name)
    return default if value is None else value


def _model(base_dir: str, given: str) -> str:
    """A local path if there is anything, seen from `base_dir`; else the id of a hub."""
    local = Path(base_dir) / Path(given).expanduser()
    try:
        return str(local) if local.exists() else given
    except (OSError, ValueError):
        # Too long or with a NUL: no path, and no hub id either, which the hub says.
        return given


def _located(error: InferenceError, reward: Reward) -> InferenceError:
    """The error with the place where the reward is declared."""
    span = reward.source.span or reward.span
    return InferenceError(
        [
            Diagnostic(
                each.code,
                each.severity,
                f"reward `{reward.name}`: {each.message}",
                each.span or span,
                each.labels,
                each.notes,
                each.help,
            )
            for each in error.diagnostics
        ],
        error.sources,
    )
