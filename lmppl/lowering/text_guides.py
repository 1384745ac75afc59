"""Guides of text sites: what draws tokens, and what gives their log probability with a gradient.

A guide starts as the site's prior and keeps to the prior's support; constraints are masked by the
same automata that the target uses, and the rest is renormalised.
"""

from __future__ import annotations

import copy
import math
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lmppl.density import Automata, SiteRows, TextBatch, TextRun, TextStage
from lmppl.density.stages.beside import Proposed
from lmppl.errors import InternalError
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.protocol import LanguageModel, Prefixes, Prompt, Vocabulary
from lmppl.lm.quiet import quiet_transformers
from lmppl.lowering.corrections import Correction, make_correction
from lmppl.lowering.dead_ends import DeadEnds
from lmppl.lowering.distribution import TokenSequences
from lmppl.lowering.sites import Batch, Proposing, SitePart
from lmppl.sequences.drawing import IDENTITY_WARP

# Logits of more entries than this are computed again in the backward pass, a few rows at a time.
_MAX_LOGITS = 1 << 26


class TextGuide(SitePart):
    """The trainable distribution of one text site.

    Subclasses say how a batch is stepped (`stage_of`) and what the logits at every position of
    given texts are (`logits`); both give the same distribution.
    """

    def __init__(self, stage: TextStage) -> None:
        super().__init__()
        self.stage = stage

    @abstractmethod
    def stage_of(self, contexts: Tensor) -> TextStage:
        """The site with this guide as its language model, for rows with `contexts` `[rows]`."""

    @abstractmethod
    def logits(
        self, prompts: Sequence[Prompt], contexts: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Tensor:
        """Logits of the token at every position, `[rows, columns, vocab]`, with a gradient.

        `tokens` is `[rows, columns]`; −inf marks a token outside the prior's support. What stands
        at and past `lengths` `[rows]` is meaningless but finite.
        """

    @property
    def may_forbid(self) -> bool:
        """Whether `logits` may be −inf."""
        return True

    def distribution(
        self, rows: SiteRows, contexts: Tensor, batch: Batch, ends: DeadEnds
    ) -> TokenSequences:
        prompts, number = rows.prompts, rows.number
        automata = ends.target.requirements.automata(number, rows.traces, prompts)

        def score(at: Tensor, text: TextBatch) -> Tensor:
            picked = [prompts[row] for row in at.tolist()]
            return self.log_prob(picked, contexts[at], text, automata.select(at))

        return TokenSequences(
            self.stage,
            prompts,
            index=batch.index,
            automata=automata,
            drawing=lambda at: self.stage_of(contexts[at]),
            scorer=score,
            on_dead_end=lambda at: ends.met(number),
            marks=batch.marks,
        )

    def start(self, at: Proposing, *steering: Any) -> TextRun:
        own = self.stage_of(at.contexts)
        proposal = Proposed(at.change(own.lm), own.warp, at.floor, at.looks_ahead)
        run: TextRun = at.stage.begin(
            at.rows.prompts, *steering, proposal=proposal, record=at.record
        )
        return run

    def recovered(self, at: Proposing, run: TextRun) -> TextRun:
        if run.beside is not None and run.num_open:
            # Its rows are the open ones now.
            lm = at.change(self.stage_of(at.contexts[run.open]).lm)
            proposal = replace(run.beside.proposal, lm=lm)
            run = replace(run, beside=replace(run.beside, proposal=proposal))
        found: TextRun = at.stage.recovered(run, at.rows)
        return found

    def log_prob(
        self,
        prompts: Sequence[Prompt],
        contexts: Tensor,
        text: TextBatch,
        automata: Automata,
    ) -> Tensor:
        """log q(text), `[rows]` float64, with a gradient; −inf for texts that a mask forbids."""
        columns = int(text.lengths.max())
        tokens = text.tokens[:, :columns]
        masks = replay_masks(self.stage, automata, tokens, text.lengths)
        size = max(1, _MAX_LOGITS // (columns * self.stage.lm.vocab.size))
        num_rows = tokens.shape[0]
        if num_rows <= size or not torch.is_grad_enabled():
            return self._log_prob(prompts, contexts, tokens, text.lengths, masks)
        parts = []
        for first in range(0, num_rows, size):
            rows = slice(first, first + size)
            part = checkpoint(
                self._log_prob,
                prompts[rows],
                contexts[rows],
                tokens[rows],
                text.lengths[rows],
                None if masks is None else masks[rows],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            parts.append(part)
        return torch.cat(parts)

    def _log_prob(
        self,
        prompts: Sequence[Prompt],
        contexts: Tensor,
        tokens: Tensor,
        lengths: Tensor,
        masks: Tensor | None,
    ) -> Tensor:
        logits = self.logits(prompts, contexts, tokens, lengths)
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths.unsqueeze(-1)
        if masks is not None:
            logits = logits.masked_fill(~masks, -math.inf)
        if masks is not None or self.may_forbid:
            # A row of nothing but −inf has no gradient: past the end it is made harmless first.
            logits = logits.masked_fill(~inside.unsqueeze(-1), 0.0)
        chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        normaliser = logits.logsumexp(-1)
        if masks is not None or self.may_forbid:
            # After a dead end nothing is possible, and −∞ minus −∞ would be NaN.
            normaliser = normaliser.masked_fill(normaliser == -math.inf, 0.0)
        token_log_prob = chosen - normaliser
        return torch.where(inside, token_log_prob, 0.0).double().sum(-1)


def replay_masks(
    stage: TextStage, automata: Automata, tokens: Tensor, lengths: Tensor
) -> Tensor | None:
    """The masks under which every token was drawn, `[rows, columns, vocab]`; None: all allowed."""
    if automata.is_trivial:
        return None
    num_rows, columns = tokens.shape
    states = automata.begin(torch.arange(num_rows, device=tokens.device))
    masks = []
    for column in range(columns):
        mask = automata.mask(states, stage.max_tokens - column)
        if mask is None:
            mask = torch.ones(
                (num_rows, stage.lm.vocab.size), dtype=torch.bool, device=tokens.device
            )
        masks.append(mask)
        states = automata.advance(states, tokens[:, column])
    return torch.stack(masks, 1)


class NetworkGuide(TextGuide):
    """A trainable copy of a Hugging Face language model: all its weights, or low-rank adapters.

    The copy's weights are float32 or wider, because steps of an optimiser are too small for half
    precision. A `temperature` of the site stays; where `top_k` or `top_p` cut the prior's support,
    the prior is run beside the guide, which keeps to that support.
    """

    def __init__(self, stage: TextStage, lm: HuggingFaceLM, *, lora_rank: int | None) -> None:
        super().__init__(stage)
        network = copy.deepcopy(lm.model)
        if next(network.parameters()).dtype in (torch.float16, torch.bfloat16):
            network = network.float()
        self.uses_adapters = lora_rank is not None
        if lora_rank is None:
            network.requires_grad_(True)
        else:
            network = _with_adapters(network, lora_rank)
        self.network = network.eval()
        # Not submodules: the prior is not trained, and the wrapper holds the network again.
        self._lm = (lm.with_model(self.network, f"guide of {stage.name}"),)
        self._prior = (lm,)

    @property
    def lm(self) -> HuggingFaceLM:
        """The guide as a language model, before the site's masks."""
        return self._lm[0]

    is_network = True

    def rates(self, *, lr: float, table_lr: float, num_draws: int) -> dict[str, float]:
        return {"lr": lr}

    @property
    def slow_paths(self) -> tuple[str, ...]:
        return self.lm.slow_paths

    def save_network(self, place: Path, *, merge: bool) -> None:
        network: Any = self.network
        if self.uses_adapters and merge:
            network = copy.deepcopy(network).merge_and_unload()
        with quiet_transformers():
            network.save_pretrained(place, safe_serialization=True)
            self.lm.tokenizer.save_pretrained(place)

    def load_network(self, place: Path) -> None:
        network: Any = self.network
        with quiet_transformers():
            saved: Any = type(network).from_pretrained(
                place, local_files_only=True, use_safetensors=True
            )
        with torch.no_grad():
            theirs = dict(saved.named_parameters())
            for name, parameter in network.named_parameters():
                parameter.copy_(theirs[name])

    @property
    def may_forbid(self) -> bool:
        return self._truncates

    @property
    def _truncates(self) -> bool:
        return self.stage.truncates

    def stage_of(self, contexts: Tensor) -> TextStage:
        if not self._truncates:
            return replace(self.stage, lm=self.lm)
        stepper = _TruncatedStepper(self.stage, self._prior[0], self.lm)
        return replace(self.stage, lm=cast(LanguageModel, stepper), warp=IDENTITY_WARP)

    def logits(
        self, prompts: Sequence[Prompt], contexts: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Tensor:
        logits = self.lm.sequence_logits(prompts, tokens, lengths)
        if not self._truncates:
            return self.stage.warp(logits)
        with torch.no_grad():
            prior = self._prior[0].sequence_logits(prompts, tokens, lengths)
            cut = self.stage.warp(prior) == -math.inf
        return (logits / self.stage.warp.temperature).masked_fill(cut, -math.inf)


def _with_adapters(network: nn.Module, rank: int) -> nn.Module:
    """The network with low-rank adapters on all its linear layers; their product starts at zero.

    Hu et al. 2021, arXiv:2106.09685.
    """
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    network.requires_grad_(False)
    with warnings.catch_warnings():
        # peft remarks on transposed layers (GPT-2), which it handles.
        warnings.simplefilter("ignore")
        adapted: nn.Module = peft.get_peft_model(cast(Any, network), config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name and parameter.dtype in (torch.float16, torch.bfloat16):
            parameter.data = parameter.data.float()
    return adapted


class CorrectedGuide(TextGuide):
    """A language model without weights of its own, with a trainable correction of its logits."""

    def __init__(self, stage: TextStage, num_contexts: int) -> None:
        super().__init__(stage)
        self.correction = make_correction(num_contexts, stage.lm.vocab.size, stage.max_tokens)
        self.correction.to(stage.device)

    def rates(self, *, lr: float, table_lr: float, num_draws: int) -> dict[str, float]:
        return self.correction.rates(table_lr, num_draws)

    def stage_of(self, contexts: Tensor) -> TextStage:
        stepper = _CorrectedStepper(self.stage, self.correction, contexts)
        return replace(self.stage, lm=cast(LanguageModel, stepper), warp=IDENTITY_WARP)

    def logits(
        self, prompts: Sequence[Prompt], contexts: Tensor, tokens: Tensor, lengths: Tensor
    ) -> Tensor:
        state = self.correction.initial(contexts)
        columns = []
        for column, prior in enumerate(self._prior_logits(prompts, tokens, lengths)):
            columns.append(prior + self.correction(state))
            state = self.correction.advance(state, tokens[:, column])
        return torch.stack(columns, 1)

    @torch.no_grad()
    def _prior_logits(
        self, prompts: Sequence[Prompt], tokens: Tensor, lengths: Tensor
    ) -> list[Tensor]:
        """The prior's logits at every position, `[rows, vocab]` each; 0 past the end."""
        lm = self.stage.lm
        prefixes = lm.start(prompts, max_new_tokens=self.stage.max_tokens)
        rows = torch.arange(len(prompts), device=tokens.device)
        found = []
        for column in range(tokens.shape[1]):
            inside = (lengths[rows] > column).nonzero().squeeze(-1)
            if inside.shape[0] < rows.shape[0]:
                rows, prefixes = rows[inside], prefixes.select(inside)
            if column and rows.shape[0]:
                prefixes = lm.extend(prefixes, tokens[rows, column - 1])
            logits = torch.zeros(
                (len(prompts), lm.vocab.size), dtype=torch.float64, device=tokens.device
            )
            if rows.shape[0]:
                logits[rows] = self.stage.warp(prefixes.row_logits()).double()
            found.append(logits)
        return found


@dataclass(frozen=True, slots=True)
class _Beside:
    """The state of two things stepped together: a prior, and what corrects it."""

    prior: Prefixes
    other: Any


class _Stepper:
    """A prior and something beside it, stepped together: as much of `LanguageModel` as drawing
    needs. Every logical row is computed."""

    def __init__(self, stage: TextStage) -> None:
        self.name = f"guide of {stage.name}"
        self.stage = stage
        self.prior = stage.lm
        self.device = stage.device
        self.max_context: int | None = stage.lm.max_context
        self.notes: tuple[str, ...] = ()

    @property
    def vocab(self) -> Vocabulary:
        return self.prior.vocab

    def _prefixes(self, prior: Prefixes, other: Any, logits: Tensor, length: Any) -> Prefixes:
        index = torch.arange(prior.num_rows, device=self.device)
        return Prefixes(index, logits, length, _Beside(prior, other), True, True)

    @staticmethod
    def _state(prefixes: Prefixes) -> _Beside:
        if not isinstance(prefixes.state, _Beside):
            raise InternalError("these prefixes belong to another language model")
        return prefixes.state


class _CorrectedStepper(_Stepper):
    """A prior with corrected logits, for rows with given contexts."""

    def __init__(self, stage: TextStage, correction: Correction, contexts: Tensor) -> None:
        super().__init__(stage)
        self.correction, self.contexts = correction, contexts

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        prior = self.prior.start(prompts, max_new_tokens=max_new_tokens)
        return self._joined(prior, self.correction.initial(self.contexts), 0)

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        before = self._state(prefixes)
        prior, state = before.prior, before.other
        if not prefixes.identity:
            prior, state = prior.select(prefixes.index), state[prefixes.index]
        prior = self.prior.extend(prior, tokens)
        return self._joined(prior, self.correction.advance(state, tokens), prefixes.lengths + 1)

    @torch.no_grad()
    def resume(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int | None = None,
    ) -> Prefixes:
        prior = self.prior.resume(prompts, tokens, lengths, max_new_tokens=max_new_tokens)
        state = self.correction.initial(self.contexts)
        for column in range(int(lengths.max())):
            after = self.correction.advance(state, tokens[:, column])
            state = torch.where((lengths > column).unsqueeze(-1), after, state)
        return self._joined(prior, state, lengths)

    def _joined(self, prior: Prefixes, state: Tensor, length: Any) -> Prefixes:
        logits = self.stage.warp(prior.row_logits()).double() + self.correction(state)
        return self._prefixes(prior, state, logits, length)


class _TruncatedStepper(_Stepper):
    """A trainable copy of a language model that keeps to what `top_k` and `top_p` leave."""

    def __init__(self, stage: TextStage, prior: HuggingFaceLM, guide: HuggingFaceLM) -> None:
        super().__init__(stage)
        self.prior, self.guide = prior, guide

    @torch.no_grad()
    def start(self, prompts: Sequence[Prompt], *, max_new_tokens: int | None = None) -> Prefixes:
        prior = self.prior.start(prompts, max_new_tokens=max_new_tokens)
        guide = self.guide.start(prompts, max_new_tokens=max_new_tokens)
        return self._joined(prior, guide, 0)

    @torch.no_grad()
    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        before = self._state(prefixes)
        prior, guide = before.prior, before.other
        if not prefixes.identity:
            prior, guide = prior.select(prefixes.index), guide.select(prefixes.index)
        return self._joined(
            self.prior.extend(prior, tokens),
            self.guide.extend(guide, tokens),
            prefixes.lengths + 1,
        )

    @torch.no_grad()
    def resume(
        self,
        prompts: Sequence[Prompt],
        tokens: Tensor,
        lengths: Tensor,
        *,
        max_new_tokens: int | None = None,
    ) -> Prefixes:
        prior = self.prior.resume(prompts, tokens, lengths, max_new_tokens=max_new_tokens)
        guide = self.guide.resume(prompts, tokens, lengths, max_new_tokens=max_new_tokens)
        return self._joined(prior, guide, lengths)

    def _joined(self, prior: Prefixes, guide: Prefixes, length: Any) -> Prefixes:
        cut = self.stage.warp(prior.row_logits()) == -math.inf
        logits = guide.row_logits() / self.stage.warp.temperature
        return self._prefixes(prior, guide, logits.masked_fill(cut, -math.inf), length)
