"""A text site as a Pyro distribution over token sequences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from torch import Tensor
from torch.distributions import constraints

from lmppl.density import Automata, TextBatch, TextStage
from lmppl.density.stages.completing import generate
from lmppl.density.stages.scoring import rescore
from lmppl.density.stages.strings import decode
from lmppl.density.steering.automaton import stop_automata
from lmppl.lm.protocol import Prompt
from lmppl.lowering.isolation import generator
from lmppl.rng import Stream

# (rows of the distribution [n], their texts) -> log probability [n]
TextScorer = Callable[[Tensor, TextBatch], Tensor]


class TokenSequences(TorchDistribution):
    """The texts of one site after given prompts: a normalised distribution over token sequences.

    An event is a LongTensor `[max_tokens]`: the tokens of a text with its end token, if it has
    one, and after that `padding_token` throughout. So the length is part of the value: a text ends
    at its first end token, where a stop string is completed, or at `max_tokens`. A sequence that
    is not written so (anything but padding after its end) has log probability −inf.

    Draws follow torch's global generator, which Pyro seeds (`pyro.set_rng_seed`): each call of
    `sample` takes one number from it, and nothing else of the process changes.

    `prompts` has an entry per row; `index`, whose shape is the batch shape, says which row each
    element of the batch is (by default the rows are the batch). With `automata` draws keep to the
    tokens after which the constraints can still be met, renormalised. A distribution that is not
    the site's own brings `drawing`, the site as the given rows are drawn from it, and `scorer`, the
    log probability of given texts under the same. `marks` are the sites that the distribution
    depends on: what is drawn and scored carries them (see `Execution`).
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    has_rsample = False
    has_enumerate_support = False

    def __init__(
        self,
        stage: TextStage,
        prompts: Sequence[Prompt],
        *,
        index: Tensor | None = None,
        automata: Automata | None = None,
        drawing: Callable[[Tensor], TextStage] | None = None,
        scorer: TextScorer | None = None,
        on_dead_end: Callable[[Tensor], Exception] | None = None,
        marks: frozenset[str] = frozenset(),
    ) -> None:
        self.stage, self.prompts = stage, tuple(prompts)
        if index is None:
            index = torch.arange(len(self.prompts), device=stage.device)
        self.index = index
        self.automata = automata
        self._drawing, self._scorer = drawing, scorer
        self._on_dead_end = on_dead_end
        self.marks = marks
        self._stops = stop_automata(stage, self.prompts)
        # Tokens `[rows, max_tokens]` and their log probability `[rows]`, once that is known.
        self._known: list[tuple[Tensor, Tensor]] = []
        super().__init__(self.index.shape, torch.Size([stage.max_tokens]), validate_args=False)

    @property
    def padding_token(self) -> int:
        """What fills an event after the end of its text."""
        return padding_token(self.stage)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        last = self.stage.lm.vocab.size - 1
        return constraints.independent(constraints.integer_interval(0, last), 1)  # type: ignore[no-untyped-call]

    def expand(
        self, batch_shape: torch.Size | Sequence[int], _instance: object = None
    ) -> TokenSequences:
        """The same texts over a larger batch; elements of the batch are drawn independently."""
        larger = TokenSequences(
            self.stage,
            self.prompts,
            index=self.index.expand(torch.Size(batch_shape)),
            automata=self.automata,
            drawing=self._drawing,
            scorer=self._scorer,
            on_dead_end=self._on_dead_end,
            marks=self.marks,
        )
        # The same list: what one of them learns, the other need not compute.
        larger._known = self._known
        return larger

    @property
    def is_prior(self) -> bool:
        """Whether texts are scored by the site's own language model."""
        return self._scorer is None

    def remember(self, tokens: Tensor, log_prob: Tensor) -> None:
        """Padded tokens `[rows, max_tokens]`, a row for each element of the batch, whose log
        probability `[rows]` somebody has found before it is asked for here."""
        self._known[:] = [(tokens, log_prob)]

    def sample(self, sample_shape: torch.Size | Sequence[int] = ()) -> Tensor:
        """Token ids `[*sample_shape, *batch_shape, max_tokens]`.

        Raises:
            InferenceError: LMP411, a masked draw ran into a dead end.
        """
        shape = torch.Size(sample_shape) + self.batch_shape
        rows = self.index.expand(shape).reshape(-1)
        stream = Stream(int(torch.randint(1 << 62, (), generator=generator(), device="cpu")))
        masked = self.automata is not None
        automata = self._stops if self.automata is None else self.automata
        with torch.no_grad():
            stage = self.stage if self._drawing is None else self._drawing(rows)
            run, log_mass = generate(
                stage,
                [self.prompts[row] for row in rows.tolist()],
                automata.select(rows),
                stream.uniforms,
                masked=masked,
            )
        dead = log_mass == -math.inf
        if masked and self._on_dead_end is not None and bool(dead.any()):
            raise self._on_dead_end(rows[dead])
        columns = torch.arange(self.stage.max_tokens, device=run.tokens.device)
        outside = columns >= run.positions.unsqueeze(-1)
        tokens = run.tokens.masked_fill(outside, self.padding_token)
        drawn: Tensor = track_provenance(tokens.reshape(*shape, self.stage.max_tokens), self.marks)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Log probability `[*batch_shape]` of padded token ids, in nats."""
        of_value = get_provenance(value)
        value = detach_provenance(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)  # type: ignore[no-untyped-call]
        rows = self.index.expand(shape).reshape(-1)
        tokens = value.expand(*shape, self.stage.max_tokens).reshape(-1, self.stage.max_tokens)
        prompts = [self.prompts[row] for row in rows.tolist()]
        text, well_formed = read_tokens(self.stage, prompts, tokens, self._stops.select(rows))
        known = next((p for known, p in self._known if torch.equal(known, tokens)), None)
        if known is not None:
            log_prob = known
        elif self._scorer is None:
            log_prob = rescore(self.stage, prompts, text)
        else:
            log_prob = self._scorer(rows, text)
        log_prob = torch.where(well_formed, log_prob, -math.inf).reshape(shape)
        scored: Tensor = track_provenance(log_prob, self.marks | of_value)
        return scored

    def read(self, value: Tensor) -> TextBatch:
        """The texts in padded token ids `[rows, max_tokens]`, one for each element of the batch."""
        prompts = [self.prompts[row] for row in self.index.reshape(-1).tolist()]
        automata = self._stops.select(self.index.reshape(-1))
        value = detach_provenance(value)
        return read_tokens(self.stage, prompts, value, automata)[0]


def padding_token(stage: TextStage) -> int:
    """What fills a padded sequence after its end: the first end token, or 0."""
    return min(stage.lm.vocab.eos_ids, default=0)


def read_tokens(
    stage: TextStage, prompts: Sequence[Prompt], tokens: Tensor, stops: Automata
) -> tuple[TextBatch, Tensor]:
    """The texts in padded token ids `[rows, max_tokens]`, and which rows are padded as they must.

    `stops` are the `stop_automata` of the same rows.
    """
    columns = tokens.shape[1]
    ends = stage.is_eos[tokens]
    by_token = ends.any(-1)
    lengths = torch.where(by_token, ends.long().argmax(-1) + 1, columns)
    finished = by_token
    if not stops.is_trivial:
        stopped_at = _stopped_at(tokens, stops)
        # An end token before the stop string wins; both cannot come at once.
        finished = by_token | (stopped_at <= columns)
        lengths = torch.minimum(lengths, stopped_at)
    last = tokens.gather(1, (lengths - 1).unsqueeze(-1)).squeeze(-1)
    num_tokens = lengths - (stage.is_eos[last] & finished).long()
    outside = torch.arange(columns, device=tokens.device) >= lengths.unsqueeze(-1)
    well_formed = ((tokens == padding_token(stage)) | ~outside).all(-1)
    text = TextBatch(
        tokens=tokens,
        lengths=lengths,
        finished=finished,
        num_tokens=num_tokens,
        strings=(),
    )
    strings = tuple(decode(stage, text, prompts))
    return TextBatch(tokens, lengths, finished, num_tokens, strings), well_formed


def _stopped_at(tokens: Tensor, stops: Automata) -> Tensor:
    """How many tokens complete the first stop string, `[rows]`; more than there are if none."""
    num_rows, columns = tokens.shape
    states = stops.begin(torch.arange(num_rows, device=tokens.device))
    found = torch.full((num_rows,), columns + 1, device=tokens.device)
    for column in range(columns):
        states = stops.advance(states, tokens[:, column])
        found = torch.where(stops.ended(states) & (found > columns), column + 1, found)
    return found
