"""Sequence classifiers and reward models of Hugging Face transformers; once per process."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lmppl.errors import InferenceError, closest
from lmppl.lm.checkpoints import STRICTLY, refused_directory, refused_weights
from lmppl.lm.quiet import quiet_transformers
from lmppl.lm.refusal import first_line
from lmppl.lm.tokenization import rendered_chat
from lmppl.rewards.scorer import Tokens, failure, shorten
from lmppl.rewards.texts import fingerprint

Head = Literal["class", "score"]

# Padded tokens in one forward pass: enough to keep the matrices busy, little enough to fit.
_TOKENS_ON_CPU = 8_192
_TOKENS_ELSEWHERE = 65_536

# Tokenizers that know no limit say 1e30.
_NO_LIMIT = 1_000_000

_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

_loaded: dict[tuple[str, ...], _Classifier] = {}
_lock = threading.Lock()


@dataclass(slots=True, eq=False, repr=False)
class _Classifier:
    """A model with its tokenizer, shared by all rewards that name it.

    `max_length` is the longest input in tokens; None where the architecture has no limit.
    """

    model: Any
    tokenizer: Any
    name: str
    digest: str
    device: torch.device
    max_length: int | None
    token_budget: int
    notes: tuple[str, ...] = ()
    # Held while the configuration says how to pad for one forward pass.
    padding: threading.Lock = field(default_factory=threading.Lock)

    def __repr__(self) -> str:
        return f"<classifier {self.name}: {self.num_labels} outputs, on {self.device}>"

    @property
    def num_labels(self) -> int:
        return int(self.model.config.num_labels)

    def halved_to(self, budget: int) -> None:
        """A smaller budget for the rest of the process, after the device ran out of memory."""
        self.token_budget = budget
        self.notes = (f"out of memory: {self.name} reads at most {budget} tokens at once",)
        torch.cuda.empty_cache()


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierSource:
    """The probability of a class, or the single output of a reward model.

    One string is encoded as the tokenizer does by itself. Two strings are a question and an answer:
    a reward model whose tokenizer has a chat template gets them as a user's and an assistant's
    turn, anything else as a pair of sequences. Inputs are grouped by length and padded on the right
    under a budget of tokens; the scores do not depend on the grouping beyond rounding. An input
    longer than the model can read is an error, or with `truncate` loses its end.
    """

    classifier: _Classifier
    head: Head
    label: int = 0
    truncate: bool = False

    @property
    def digest(self) -> str:
        return fingerprint(self.head, self.classifier.digest, str(self.label), str(self.truncate))

    @property
    def cost(self) -> Literal["cheap", "model"]:
        return "model"

    @property
    def notes(self) -> tuple[str, ...]:
        return self.classifier.notes

    def scores(
        self, columns: Sequence[Sequence[Any]], tokens: Tokens | None
    ) -> NDArray[np.float64]:
        """The score of each input, `[batch]`.

        Raises:
            InferenceError: an input is longer than the model can read (LMP929).
        """
        encoded = [self._encode(row) for row in zip(*columns, strict=True)]
        lengths = np.array([len(each["input_ids"]) for each in encoded])
        order = np.argsort(lengths, kind="stable")
        logits = np.empty((len(encoded), self.classifier.num_labels))
        start, budget = 0, self.classifier.token_budget
        while start < len(order):
            # Lengths ascend, so the last of a group is the one that sets its width.
            stop = start + 1
            while stop < len(order) and (stop + 1 - start) * lengths[order[stop]] <= budget:
                stop += 1
            group = order[start:stop]
            try:
                logits[group] = self._forward([encoded[i] for i in group.tolist()])
            except torch.OutOfMemoryError:
                if len(group) == 1:
                    raise
                # A group may be smaller than the budget; one half its size comes next.
                budget = max(len(group) * int(lengths[group[-1]]) // 2, 1)
                self.classifier.halved_to(budget)
                continue
            start = stop
        return self._read(logits)

    def _read(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.head == "score":
            return logits[:, 0]
        if self.classifier.model.config.problem_type == "multi_label_classification":
            return _sigmoid(logits[:, self.label])
        # softmax: the reciprocal of the sum of exp of differences never overflows to NaN.
        differences = logits - logits[:, [self.label]]
        with np.errstate(over="ignore"):
            probability: NDArray[np.float64] = 1.0 / np.exp(differences).sum(axis=1)
        return probability

    def _encode(self, row: tuple[Any, ...]) -> dict[str, list[int]]:
        tokenizer, limit = self.classifier.tokenizer, self.classifier.max_length
        is_chat = self.head == "score" and len(row) == 2 and bool(tokenizer.chat_template)
        if is_chat:
            rendered = self._rendered(row)
            # The template writes the special tokens itself.
            encoding = tokenizer(rendered, add_special_tokens=False, verbose=False)
        elif self.truncate and limit is not None:
            encoding = tokenizer(*row, truncation=True, max_length=limit, verbose=False)
        else:
            encoding = tokenizer(*row, verbose=False)
        inputs = {
            name: list(encoding[name])
            for name in ("input_ids", "token_type_ids")
            if name in encoding
        }
        if not inputs["input_ids"]:
            inputs = {"input_ids": [self._token_for_nothing()]}
        self._require_known(max(inputs["input_ids"]), row)
        length = len(inputs["input_ids"])
        if limit is not None and length > limit:
            raise failure(
                "LMP929",
                f"{self.classifier.name} reads at most {limit} tokens and was given {length}",
                notes=tuple(shorten(repr(text)) for text in row),
                help="use a model that reads more, or let it read only the beginning"
                + ("" if is_chat else ": truncate=true"),
            )
        return inputs

    def _require_known(self, token: int, row: tuple[Any, ...]) -> None:
        embedding = self.classifier.model.get_input_embeddings()
        size = int(embedding.weight.shape[0]) if hasattr(embedding, "weight") else None
        if size is not None and token >= size:
            raise failure(
                "LMP929",
                f"{self.classifier.name} knows {size} tokens only, and its tokenizer reads the"
                f" token {token} here",
                notes=tuple(shorten(repr(text)) for text in row),
                help="its tokenizer was extended after it was trained: take the pair that belongs"
                " together",
            )

    def _rendered(self, row: tuple[Any, ...]) -> str:
        turns = [{"role": "user", "content": row[0]}, {"role": "assistant", "content": row[1]}]
        return rendered_chat(
            self.classifier.tokenizer,
            turns,
            "LMP919",
            f"the chat template of {self.classifier.name}",
            help="mend the template, or use a model without one",
        )

    def _token_for_nothing(self) -> int:
        """What stands for the empty text where the tokenizer gives no token at all."""
        tokenizer = self.classifier.tokenizer
        for token in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
            if token is not None:
                return int(token)
        raise failure(
            "LMP929",
            f"{self.classifier.name} has no token to read for the empty text",
            help="use a model whose tokenizer has a start, end or padding token",
        )

    @torch.inference_mode()
    def _forward(self, encoded: list[dict[str, list[int]]]) -> NDArray[np.float64]:
        """The logits of a group, `[group, labels]`, in one forward pass."""
        classifier = self.classifier
        rows = [each["input_ids"] for each in encoded]
        width = max(map(len, rows))
        with _padding_token(classifier, rows) as pad:
            inputs = {
                "input_ids": [row + [pad] * (width - len(row)) for row in rows],
                "attention_mask": [[1] * len(row) + [0] * (width - len(row)) for row in rows],
            }
            if all("token_type_ids" in each for each in encoded):
                kinds = [each["token_type_ids"] for each in encoded]
                inputs["token_type_ids"] = [row + [0] * (width - len(row)) for row in kinds]
            tensors = {
                name: torch.tensor(values, dtype=torch.long, device=classifier.device)
                for name, values in inputs.items()
            }
            logits = classifier.model(**tensors).logits
        array: NDArray[np.float64] = logits.double().cpu().numpy()
        return array


@contextlib.contextmanager
def _padding_token(classifier: _Classifier, rows: list[list[int]]) -> Iterator[int]:
    """The token to pad with.

    A decoder finds the end of each row by its configured padding token. Where none is configured it
    reads the last position, for one row at a time only; any token that ends no row of the group
    then gives the same answer for all rows at once, and the configuration is put back.
    """
    config = classifier.model.config
    with classifier.padding:
        pad = getattr(config, "pad_token_id", None)
    if pad is not None:
        yield int(pad)
        return
    last = {row[-1] for row in rows}
    free = next(token for token in range(len(last) + 1) if token not in last)
    # What is read meanwhile is of this group: another thread must not take it for its own.
    with classifier.padding:
        config.pad_token_id = free
        try:
            yield free
        finally:
            config.pad_token_id = None


def load_sequence_classifier(
    source: str,
    *,
    head: Head,
    label: str | int | None = None,
    revision: str | None = None,
    truncate: bool = False,
    device: str | torch.device | None = None,
    dtype: str | None = None,
) -> ClassifierSource:
    """The sequence classifier in a directory, or of a hub id at a revision.

    `head="class"` reads the probability of `label` (a name or a number; the last class without
    one), `head="score"` the single output of a reward model. A model is loaded once per process for
    each revision, device and dtype, and again when the files of a directory have changed.

    Raises:
        InferenceError: the model cannot be loaded, has no trained head, or does not fit `head`
            (LMP919).
    """
    place = torch.device("cpu" if device is None else device)
    if dtype is not None and dtype not in _DTYPES:
        raise failure(
            "LMP919", f"there is no dtype {dtype!r}", help=f"use one of {', '.join(_DTYPES)}"
        )
    path = Path(source)
    local = path if path.is_dir() else None
    if local is None and os.path.exists(source):
        raise failure(
            "LMP919",
            f"{source} is not a directory, and a classifier is one",
            help="name a directory written by save_pretrained",
        )
    key = (_fingerprint(source, local), str(revision), str(place), str(dtype))
    with _lock:
        if (known := _loaded.get(key)) is None:
            known = _load(source, local, revision, place, dtype)
            _loaded[key] = known
    if head == "score":
        if known.num_labels != 1:
            raise failure(
                "LMP919",
                f"{known.name} has {known.num_labels} outputs; a reward model has one",
                help=f"use classifier(..., label=...) with one of {_labels(known)}",
            )
        return ClassifierSource(known, head, 0, truncate)
    if known.num_labels == 1:
        raise failure(
            "LMP919",
            f"{known.name} has one output, which is a score and not a probability",
            help="use reward_model(...)",
        )
    return ClassifierSource(known, head, _class(known, label), truncate)


def _class(classifier: _Classifier, label: str | int | None) -> int:
    """The number of the class that a label names."""
    if label is None:
        return classifier.num_labels - 1
    names = {str(name): int(index) for index, name in classifier.model.config.id2label.items()}
    if isinstance(label, int) and 0 <= label < classifier.num_labels:
        return label
    if isinstance(label, str) and label in names:
        return names[label]
    near = closest(label, names) if isinstance(label, str) else None
    raise failure(
        "LMP919",
        f"{classifier.name} has no class {label!r}",
        notes=(f"its classes are {_labels(classifier)}",),
        help=f"did you mean {near!r}?" if near else None,
    )


def _labels(classifier: _Classifier) -> str:
    names = sorted(classifier.model.config.id2label.items(), key=lambda item: int(item[0]))
    return ", ".join(f"{str(name)!r}" for _, name in names)


def _load(
    source: str,
    local: Path | None,
    revision: str | None,
    device: torch.device,
    dtype: str | None,
) -> _Classifier:
    import transformers

    name = source if local is None else local.name
    options: dict[str, Any] = {"local_files_only": local is not None}
    if local is None and revision is not None:
        options["revision"] = revision
    # Half precision on a CPU is slower than float32, and less exact for nothing.
    number: Any = "auto" if device.type != "cpu" else torch.float32
    if dtype is not None:
        number = _DTYPES[dtype]
    if local is not None and (refused := refused_directory(local, name)):
        raise failure("LMP919", refused.message, notes=refused.notes, help=refused.help)
    try:
        # A head that is missing would be drawn from the global generator: neither it nor the
        # generator's state may leak out.
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, **options)
            model, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                source, dtype=number, **options, **STRICTLY
            )
    except Exception as error:
        # transformers raises OSError, ValueError, KeyError and its own for one and the same cause.
        raise _explain_failure(source, local, revision, error) from error
    body = f"{model.base_model_prefix}."
    heads = sorted(name for name in report["missing_keys"] if not name.startswith(body))
    if heads:
        raise failure(
            "LMP919",
            f"{name} was not trained as a classifier: the checkpoint lacks {', '.join(heads)}",
            help="a language model has no classification head; name a classifier or reward model",
        )
    if refused := refused_weights(model, report, local, name):
        raise failure("LMP919", refused.message, notes=refused.notes, help=refused.help)
    model = model.eval().requires_grad_(False).to(device)
    digest = str(getattr(model.config, "_commit_hash", None) or revision or "")
    return _Classifier(
        model=model,
        tokenizer=tokenizer,
        name=name,
        digest=fingerprint(source, digest) if local is None else _digest(local),
        device=device,
        max_length=_max_length(model, tokenizer),
        token_budget=_TOKENS_ON_CPU if device.type == "cpu" else _TOKENS_ELSEWHERE,
    )


def _max_length(model: Any, tokenizer: Any) -> int | None:
    """The longest input, from the position table and the tokenizer; None without a limit."""
    limits = []
    if tokenizer.model_max_length < _NO_LIMIT:
        limits.append(int(tokenizer.model_max_length))
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and positions > 0:
        reserved = 0
        for part, module in model.named_modules():
            # RoBERTa numbers its positions from padding_idx + 1 on.
            if part.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
                reserved = 0 if module.padding_idx is None else module.padding_idx + 1
        limits.append(int(positions) - reserved)
    return min(limits, default=None)


def _explain_failure(
    source: str, local: Path | None, revision: str | None, error: Exception
) -> InferenceError:
    reason = first_line(error) or repr(error)
    if local is not None:
        files = ", ".join(sorted(file.name for file in local.iterdir())[:12])
        return failure(
            "LMP919",
            f"the directory {local.name} cannot be loaded as a sequence classifier",
            notes=(reason, f"it holds {files or 'nothing'}"),
            help="it needs config.json, weights in safetensors, and a tokenizer",
        )
    at = f" at revision {revision}" if revision else ""
    return failure(
        "LMP919",
        f"there is no sequence classifier {source!r}{at} to load",
        notes=(
            "tried: a directory of that name, then the Hugging Face hub and its local cache",
            reason,
        ),
        help="check the name and the network, or give the path of a directory",
    )


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    small = np.exp(-np.abs(x))
    share: NDArray[np.float64] = np.where(x >= 0.0, 1.0, small) / (1.0 + small)
    return share


def _fingerprint(source: str, local: Path | None) -> str:
    if local is None:
        return source
    stats = [(file.name, file.stat()) for file in sorted(local.iterdir()) if file.is_file()]
    return repr(
        (str(local.resolve()), [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])
    )


def _digest(local: Path) -> str:
    """SHA-256 of the names and contents of the files that determine the scores."""
    sha = hashlib.sha256()
    patterns = ("*.json", "*.safetensors", "*.bin", "*.txt", "*.model", "*.jinja")
    for file in sorted({file for pattern in patterns for file in local.glob(pattern)}):
        sha.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            sha.update(hashlib.file_digest(stream, "sha256").digest())
    return sha.hexdigest()
