"""What holds for every language model; and that the laws reject models that break them."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import Cache

from lmppl.errors import InternalError
from lmppl.lm.archive import KVArchive
from lmppl.lm.cache import CachedPrefixes
from lmppl.lm.decoding import LlamaDecoder
from lmppl.lm.function import FunctionLM
from lmppl.lm.histories import HistoryLM
from lmppl.lm.hmm import load_hmm
from lmppl.lm.huggingface import HuggingFaceLM
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.loading import load_language_model
from lmppl.lm.markov import load_markov
from lmppl.lm.names import builtin_models
from lmppl.lm.ngram import load_ngram
from lmppl.lm.protocol import LanguageModel, PrefixArchive, Prefixes
from lmppl.sequences.drawing import Warp, draw_tokens

SHARED = Path(os.environ.get("LMPPL_SHARED", Path(__file__).resolve().parents[2].parent / "shared"))
SHARED_MODELS = ("stories260K-hf", "babyllama940K-hf")
PROMPTS = ("the dog", "a", "the dog said hello to the cat and then", "the dog")
# float32 rounding, per sequence, as the project promises for padded batches.
NATS = 1e-4


def halving(prefixes: Tensor) -> Tensor:
    """Probabilities that depend on the number of tokens and on the sum of their ids."""
    batch, length = prefixes.shape
    scores = torch.zeros(batch, 4, dtype=torch.float64)
    scores[:, 0] = prefixes.sum(1) / 3
    scores[:, 1] = (prefixes == 2).sum(1) - 0.5 * length
    scores[:, 3] = 0.25 * length
    return scores.log_softmax(-1)


@cache
def table_directory() -> Path:
    directory = Path(tempfile.mkdtemp(prefix="lmppl-tables-"))
    tiny_models.write_markov(directory / "markov.json")
    tiny_models.write_markov(directory / "endless.json", eos=None)
    tiny_models.write_hmm(directory / "hidden.json")
    tiny_models.write_hmm(directory / "hidden_endless.json", eos=None)
    (directory / "corpus.txt").write_text("\n".join(tiny_models.CORPUS), encoding="utf-8")
    return directory


@cache
def make(name: str) -> LanguageModel:
    kind, _, rest = name.partition(":")
    match kind:
        case "tiny":
            return tiny_models.tiny_lm(rest)
        case "general":
            # The same without the decoder for single steps.
            lm = tiny_models.tiny_lm(rest)
            lm.calling.decoder = None
            return lm
        case "shared":
            if not (SHARED / "models" / rest).is_dir():
                pytest.skip("the shared models are not beside this checkout")
            return load_language_model(SHARED / "models" / rest)
        case "builtin":
            return load_language_model(name)
        case "markov":
            return load_markov(table_directory() / rest)
        case "hmm":
            return load_hmm(table_directory() / rest)
        case "ngram":
            unit = "word" if rest == "word" else "character"
            return load_ngram(table_directory() / "corpus.txt", order=3, unit=unit)
    return FunctionLM(tokens=["a", "b", " c", "."], eos=".", next_log_probs=halving)


NAMES = (
    *(f"tiny:{style}" for style in tiny_models.STYLES),
    "general:llama",
    "general:qwen2",
    *(f"shared:{name}" for name in SHARED_MODELS),
    *builtin_models(),
    "markov:markov.json",
    "markov:endless.json",
    "hmm:hidden.json",
    "hmm:hidden_endless.json",
    "ngram:character",
    "ngram:word",
    "function:",
)
every_lm = pytest.mark.parametrize("name", NAMES)
every_network = pytest.mark.parametrize(
    "name", [name for name in NAMES if name.startswith(("tiny", "general", "shared", "builtin"))]
)


class Wrong:
    """Another language model, but for what a subclass gets wrong."""

    def __init__(self, lm: LanguageModel) -> None:
        self.lm = lm

    def __getattr__(self, name: str) -> object:
        return getattr(self.lm, name)


def honest(lm: LanguageModel) -> LanguageModel:
    """The model behind a wrong one: what the laws compare with."""
    return lm.lm if isinstance(lm, Wrong) else lm


def prompts_of(lm: LanguageModel) -> tuple[str, ...]:
    return PROMPTS if isinstance(honest(lm), HuggingFaceLM) else ("",) * len(PROMPTS)


def random_tokens(lm: LanguageModel, rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, lm.vocab.size, (rows, length), generator=generator)


def prompt_ids(lm: LanguageModel, prompt: str) -> tuple[int, ...]:
    lm = honest(lm)
    return lm.prompts.ids(prompt) if isinstance(lm, HuggingFaceLM) else lm.encode_prompt(prompt)


def reference(lm: LanguageModel, prompt: str, tokens: Sequence[int]) -> Tensor:
    """Log probs `[vocab]` by the slow path: one row, no cache, no padding, no shared work."""
    lm = honest(lm)
    ids = torch.tensor([[*prompt_ids(lm, prompt), *tokens]], dtype=torch.long)
    if isinstance(lm, HistoryLM):
        return lm.log_probs(ids, torch.zeros(1, dtype=torch.long))[0]
    with torch.no_grad():
        return lm.model(input_ids=ids, use_cache=False).logits[0, -1].log_softmax(-1)


def assert_close(found: Tensor, expected: Tensor, nats: float = NATS) -> None:
    assert found.shape == expected.shape
    same = found == expected  # −inf agrees with −inf
    error = torch.where(same, 0.0, found.double() - expected.double()).abs()
    assert float(error.max()) <= nats, f"off by {float(error.max())} nats"


def step_through(
    lm: LanguageModel, prompts: Sequence[str], tokens: Tensor, *, hint: bool = True
) -> Tensor:
    """Log prob of every token `[rows, length]`, a step at a time."""
    prefixes = lm.start(prompts, max_new_tokens=tokens.shape[1] if hint else None)
    columns = []
    for step in range(tokens.shape[1]):
        log_probs = prefixes.row_logits().log_softmax(-1)
        columns.append(log_probs.gather(1, tokens[:, step, None])[:, 0])
        prefixes = lm.extend(prefixes, tokens[:, step])
    return torch.stack(columns, 1)


# --- the laws -----------------------------------------------------------------------------------


def law_rows_sum_to_one(lm: LanguageModel) -> None:
    prompts = prompts_of(lm)
    prefixes = lm.start(prompts)
    for step, tokens in enumerate(random_tokens(lm, len(prompts), 4).T):
        probs = prefixes.row_logits().double().softmax(-1)
        assert probs.shape == (len(prompts), lm.vocab.size)
        assert_close(probs.sum(-1), torch.ones(len(prompts), dtype=torch.float64), 1e-12)
        if isinstance(honest(lm), HistoryLM):
            # Tables give log probabilities and not only scores.
            assert_close(
                prefixes.logits.logsumexp(-1), torch.zeros(prefixes.num_physical).double(), 1e-12
            )
        assert prefixes.row_lengths().tolist() == [step] * len(prompts)
        prefixes = lm.extend(prefixes, tokens)


def law_steps_add_up(lm: LanguageModel) -> None:
    prompts, tokens = prompts_of(lm), random_tokens(lm, 4, 12)
    lengths = torch.tensor([12, 5, 0, 9])
    stepped = step_through(lm, prompts, tokens)
    stepped = torch.where(torch.arange(12) < lengths[:, None], stepped, 0.0)
    scored = lm.token_log_probs(prompts, tokens, lengths)
    assert scored.dtype in (torch.float32, torch.float64)
    assert_close(scored.double().sum(1), stepped.double().sum(1))
    assert_close(scored, stepped)


def law_select_is_recompute(lm: LanguageModel) -> None:
    """Random resampling: rows dropped, repeated, swapped, and diverging again."""
    generator = torch.Generator().manual_seed(1)
    prompts = list(prompts_of(lm))
    prefixes = lm.start(prompts, max_new_tokens=10)
    history = torch.zeros(len(prompts), 0, dtype=torch.long)
    for step in range(10):
        rows = (4, 6, 6, 3, 3, 7, 5, 5, 8, 2)[step]
        picked = torch.randint(0, len(prompts), (rows,), generator=generator)
        if step == 4:
            picked = torch.tensor([2, 0, 1])  # a permutation moves nothing
        prefixes = prefixes.select(picked)
        prompts, history = [prompts[i] for i in picked.tolist()], history[picked]
        # Few distinct tokens, so that some rows stay equal.
        tokens = torch.randint(0, 3, (len(prompts),), generator=generator) % lm.vocab.size
        prefixes = lm.extend(prefixes, tokens)
        history = torch.cat([history, tokens[:, None]], 1)
        assert prefixes.num_rows == len(prompts)
        for row, prompt in enumerate(prompts):
            found = prefixes.row_logits()[row].log_softmax(-1)
            assert_close(found, reference(lm, prompt, history[row].tolist()))


def law_padding_is_invisible(lm: LanguageModel) -> None:
    prompts, tokens = prompts_of(lm), random_tokens(lm, 4, 12, seed=2)
    together = step_through(lm, prompts, tokens).sum(1)
    alone = [step_through(lm, [p], tokens[i : i + 1]).sum(1) for i, p in enumerate(prompts)]
    assert_close(together, torch.cat(alone))
    lengths = torch.tensor([12, 7, 3, 1])
    together = lm.token_log_probs(prompts, tokens, lengths)
    for i, prompt in enumerate(prompts):
        alone = lm.token_log_probs([prompt], tokens[i : i + 1], lengths[i : i + 1])
        assert_close(together[i].sum(), alone[0].sum())


def law_resume_is_recompute(lm: LanguageModel) -> None:
    prompts, tokens = prompts_of(lm), random_tokens(lm, 4, 6, seed=3)
    lengths = torch.tensor([6, 0, 3, 6])
    prefixes = lm.resume(prompts, tokens, lengths, max_new_tokens=9)
    assert prefixes.row_lengths().tolist() == lengths.tolist()
    for row, prompt in enumerate(prompts):
        kept = tokens[row, : lengths[row]].tolist()
        assert_close(prefixes.row_logits()[row].log_softmax(-1), reference(lm, prompt, kept))
    appended = random_tokens(lm, 4, 2, seed=4)
    for step in range(2):
        prefixes = lm.extend(prefixes, appended[:, step])
    for row, prompt in enumerate(prompts):
        whole = tokens[row, : lengths[row]].tolist() + appended[row].tolist()
        assert_close(prefixes.row_logits()[row].log_softmax(-1), reference(lm, prompt, whole))


def law_archive_is_recompute(lm: LanguageModel) -> None:
    """Moves that are accepted or not, texts that change elsewhere, and a prompt that changes."""
    archive = lm.archive(4, 9)
    if archive is None:
        assert not isinstance(honest(lm), HuggingFaceLM) or any("recomputed" in n for n in lm.notes)
        return
    several = prompts_of(lm)
    generator = torch.Generator().manual_seed(12)
    texts, rows = random_tokens(lm, 4, 9, seed=13), torch.arange(4)
    for prompts in ((several[2],) * 4, several, several[::-1]):
        for move in range(5):
            lengths = torch.randint(0, 9, (4,), generator=generator)
            lengths[move % 4] = move % 2
            proposal = torch.where(
                torch.arange(9) < lengths[:, None], texts, random_tokens(lm, 4, 9, seed=move)
            )
            found = archive.recall(rows, prompts, texts, lengths)
            assert found.row_lengths().tolist() == lengths.tolist()
            while True:
                at = found.row_lengths()
                for row, length in enumerate(at.tolist()):
                    expected = reference(lm, prompts[row], proposal[row, :length].tolist())
                    assert_close(found.row_logits()[row].log_softmax(-1), expected)
                if int(at.max()) == 9:
                    break
                tokens = proposal[torch.arange(4), at]
                found = lm.extend(found, tokens)
            archive.file(rows, found)
            accepted = torch.rand(4, generator=generator) < 0.5
            archive.settle(accepted)
            texts = torch.where(accepted[:, None], proposal, texts)
            texts[move % 4, 4] = (texts[move % 4, 4] + 1) % lm.vocab.size
        # A subset of the rows, some of them twice, as a move of another kind asks.
        twice, lengths = torch.tensor([2, 2, 0, 3, 3]), torch.tensor([4, 4, 2, 8, 1])
        chosen = tuple(prompts[row] for row in twice)
        found = archive.recall(twice, chosen, texts[twice], lengths)
        for row, (origin, length) in enumerate(zip(twice, lengths.tolist(), strict=True)):
            expected = reference(lm, prompts[origin], texts[origin, :length].tolist())
            assert_close(found.row_logits()[row].log_softmax(-1), expected)
        # Rows that take the place of others, with their prompts.
        chosen = torch.tensor([2, 0, 2, 3])
        archive.select(chosen)
        texts, prompts = texts[chosen], tuple(prompts[row] for row in chosen)
        lengths = torch.tensor([8, 3, 5, 8])
        found = archive.recall(rows, prompts, texts, lengths)
        for row, length in enumerate(lengths.tolist()):
            expected = reference(lm, prompts[row], texts[row, :length].tolist())
            assert_close(found.row_logits()[row].log_softmax(-1), expected)
        # All rows in another order, whose prompts have changed places.
        found = archive.recall(rows.flip(0), prompts, texts.flip(0), torch.full((4,), 3))
        for row, prompt in enumerate(prompts):
            expected = reference(lm, prompt, texts[3 - row, :3].tolist())
            assert_close(found.row_logits()[row].log_softmax(-1), expected)


def law_equal_rows_are_computed_once(lm: LanguageModel) -> None:
    prompt = prompts_of(lm)[0]
    prefixes = lm.start([prompt] * 6)
    assert prefixes.num_physical == 1 and prefixes.num_rows == 6
    first, second = torch.tensor([0, 1, 1, 0, 1, 0]), torch.tensor([1, 1, 0, 1, 1, 0])
    prefixes = lm.extend(prefixes, first)
    assert prefixes.num_physical == 2
    prefixes = lm.extend(prefixes, second)
    assert prefixes.num_physical == 4
    for row in range(6):
        ids = [int(first[row]), int(second[row])]
        assert_close(prefixes.row_logits()[row].log_softmax(-1), reference(lm, prompt, ids))


def law_drawn_is_rescored(lm: LanguageModel, warp: Warp) -> None:
    """The log prob of a draw under temperature, top-k and top-p is what rescoring gives."""
    prompts = prompts_of(lm)
    generator = torch.Generator().manual_seed(6)
    prefixes = lm.start(prompts, max_new_tokens=8)
    tokens, log_prob = [], torch.zeros(len(prompts), dtype=torch.float64)
    for _ in range(8):
        uniforms = torch.rand(len(prompts), generator=generator, dtype=torch.float64)
        index = None if prefixes.identity else prefixes.index
        drawn = draw_tokens(warp(prefixes.logits), uniforms, index=index)
        tokens.append(drawn.tokens)
        log_prob += drawn.log_prob
        prefixes = lm.extend(prefixes, drawn.tokens)
    texts = torch.stack(tokens, 1)
    for row, prompt in enumerate(prompts):
        rescored = 0.0
        for step in range(8):
            log_probs = reference(lm, prompt, texts[row, :step].tolist())
            rescored += float(warp(log_probs[None]).log_softmax(-1)[0, texts[row, step]])
        assert abs(rescored - float(log_prob[row])) <= NATS


LAWS: tuple[Callable[[LanguageModel], None], ...] = (
    law_rows_sum_to_one,
    law_steps_add_up,
    law_select_is_recompute,
    law_padding_is_invisible,
    law_resume_is_recompute,
    law_archive_is_recompute,
    law_equal_rows_are_computed_once,
)
WARPS = (Warp(), Warp(temperature=0.7), Warp(top_k=3), Warp(top_p=0.8), Warp(1.3, 5, 0.9))


@every_lm
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_every_language_model_keeps_the_laws(name, law):
    law(make(name))


@every_lm
def test_a_drawn_log_prob_is_the_rescored_one_under_every_warp(name):
    for warp in WARPS:
        law_drawn_is_rescored(make(name), warp)


@every_lm
def test_a_language_model_is_one_by_its_protocol(name):
    lm = make(name)
    assert isinstance(lm, LanguageModel)
    assert len(lm.digest) == len(lm.vocab.digest) == 64
    assert lm.digest == lm.digest


@every_lm
def test_end_tokens_add_nothing_to_the_text(name):
    vocab = make(name).vocab
    assert all(vocab.token_bytes[token] == b"" for token in vocab.eos_ids)


# --- shortcuts of the networks ------------------------------------------------------------------


@every_network
def test_micro_batches_give_what_the_whole_batch_gives(name):
    lm = make(name)
    whole_rows = lm.max_rows
    prompts, tokens = PROMPTS * 2, random_tokens(lm, 8, 5, seed=7)
    lengths = torch.tensor([5, 4, 3, 5, 0, 5, 2, 1])
    whole = step_through(lm, prompts, tokens)
    scored = lm.token_log_probs(prompts, tokens, lengths)
    try:
        lm.max_rows = 3
        assert_close(step_through(lm, prompts, tokens), whole)
        assert_close(lm.token_log_probs(prompts, tokens, lengths), scored)
    finally:
        lm.max_rows = whole_rows


@every_network
@pytest.mark.parametrize("max_rows", [None, 5])
def test_a_prompt_that_all_rows_share_changes_nothing(name, max_rows):
    """Its keys are held once by a decoder that knows of it; resampled and stepped on."""
    lm = make(name)
    whole_rows = lm.max_rows
    tokens = random_tokens(lm, 12, 8, seed=11)
    prompt = PROMPTS[2]
    try:
        lm.max_rows = max_rows
        prefixes = lm.start([prompt] * 12, max_new_tokens=8)
        for step in range(4):
            prefixes = lm.extend(prefixes, tokens[:, step])
        if isinstance(prefixes.state, CachedPrefixes) and lm.calling.decoder is not None:
            assert prefixes.state.storage.num_shared > 8
        kept = torch.tensor([3, 3, 0, 7, 11, 11, 11, 2, 5, 1, 9])
        prefixes = prefixes.select(kept)
        for step in range(4, 6):
            prefixes = lm.extend(prefixes, tokens[kept, step])
        expected = torch.stack([reference(lm, prompt, tokens[row, :6].tolist()) for row in kept])
        assert_close(prefixes.row_logits().log_softmax(-1), expected)
    finally:
        lm.max_rows = whole_rows


@every_network
def test_scoring_in_small_pieces_gives_what_scoring_whole_gives(name):
    lm = make(name)
    if lm.calling.windows is None:
        pytest.skip("a recomputed model scores whole rows")
    tokens, lengths = random_tokens(lm, 4, 9), torch.tensor([9, 2, 7, 9])
    whole = lm.token_log_probs(PROMPTS, tokens, lengths)
    budgets = lm.calling.budgets
    try:
        lm.calling.budgets = dataclasses.replace(budgets, max_log_probs=2 * lm.vocab.size)
        assert_close(lm.token_log_probs(PROMPTS, tokens, lengths), whole)
    finally:
        lm.calling.budgets = budgets


@every_network
def test_running_out_of_memory_halves_the_micro_batch(name, monkeypatch):
    lm = make(name)
    if lm.calling.windows is None:
        pytest.skip("a recomputed model has no storage to run out of")
    tokens = random_tokens(lm, 8, 3)
    whole = step_through(lm, PROMPTS * 2, tokens)
    logits = ForwardPass.logits

    def small(passes, storage, first_row, last_row, *rest, **options):
        if last_row - first_row > 2:
            raise torch.OutOfMemoryError("as a device would")
        return logits(passes, storage, first_row, last_row, *rest, **options)

    monkeypatch.setattr(ForwardPass, "logits", small)
    try:
        assert_close(step_through(lm, PROMPTS * 2, tokens), whole)
        assert lm.max_rows is not None and lm.max_rows <= 2
        assert any("out of memory" in note for note in lm.notes)
    finally:
        lm.memory.max_rows = None


@every_network
def test_storage_grows_when_no_hint_was_given(name):
    lm = make(name)
    tokens = random_tokens(lm, 2, 60, seed=8)
    stepped = step_through_without_hint(lm, tokens)
    scored = lm.token_log_probs(PROMPTS[:2], tokens, torch.tensor([60] * 2))
    # A thousand nats in float32 have an ulp of 6e-5.
    assert_close(stepped.double().sum(1), scored.double().sum(1))


def step_through_without_hint(lm: LanguageModel, tokens: Tensor) -> Tensor:
    prefixes = lm.start(PROMPTS[: len(tokens)])
    columns = []
    for step in range(tokens.shape[1]):
        log_probs = prefixes.row_logits().log_softmax(-1)
        columns.append(log_probs.gather(1, tokens[:, step, None])[:, 0])
        prefixes = lm.extend(prefixes, tokens[:, step])
    return torch.stack(columns, 1)


@every_network
def test_spent_prefixes_are_refused(name):
    lm = make(name)
    if lm.calling.windows is None:
        pytest.skip("a recomputed model spends nothing")
    prefixes = lm.start(PROMPTS)
    lm.extend(prefixes, torch.tensor([1, 2, 3, 4]))
    with pytest.raises(InternalError, match="spent"):
        lm.extend(prefixes, torch.tensor([1, 2, 3, 4]))


@pytest.mark.parametrize("name", ["tiny:llama", "tiny:gemma3", "shared:stories260K-hf"])
def test_a_gradient_does_not_change_the_score(name):
    lm = make(name)
    copy = lm.with_model(lm.model)
    tokens, lengths = random_tokens(lm, 4, 6), torch.tensor([6, 3, 6, 2])
    parameter = next(copy.model.parameters())
    wanted = parameter.requires_grad
    try:
        parameter.requires_grad_(True)
        scored = copy.token_log_probs(PROMPTS, tokens, lengths, gradient=True)
        assert_close(scored.detach(), lm.token_log_probs(PROMPTS, tokens, lengths))
        (slope,) = torch.autograd.grad(scored.sum(), parameter)
        assert float(slope.abs().sum()) > 0
    finally:
        parameter.requires_grad_(wanted)


DECODED = ("tiny:llama", "tiny:qwen2", "builtin:stories")


@pytest.mark.parametrize("name", [name for name in DECODED if name in NAMES])
def test_the_decoder_steps_as_the_general_forward_pass_does(name):
    lm = make(name)
    tokens = random_tokens(lm, 8, 8, seed=10)
    decoder = lm.calling.decoder
    assert decoder is not None
    decoded = step_through(lm, PROMPTS * 2, tokens)
    try:
        lm.calling.decoder = None
        assert_close(decoded, step_through(lm, PROMPTS * 2, tokens), 1e-4)
    finally:
        lm.calling.decoder = decoder


@pytest.mark.parametrize("how", ["in place", "by other memory"])
def test_the_decoder_follows_parameters_that_are_changed(how):
    lm = tiny_models.tiny_lm("llama")
    tokens = random_tokens(lm, 4, 6)
    before = step_through(lm, PROMPTS, tokens)
    with torch.no_grad():
        for parameter in lm.model.parameters():
            if how == "in place":
                parameter.mul_(0.9)
            else:
                parameter.data = 0.9 * parameter
    after = step_through(lm, PROMPTS, tokens)
    assert float((after - before).abs().max()) > 0.1
    assert_close(after, lm.token_log_probs(PROMPTS, tokens, torch.full((4,), 6)))


# peft asks transformers by a name that transformers has since changed.
fresh_peft = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


@fresh_peft
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ["v_proj", "down_proj"]])
def test_the_decoder_steps_a_model_with_adapters_merged(targets):
    lm = tiny_models.tiny_lm("llama")
    adapted = get_peft_model(
        copy.deepcopy(lm.model),
        LoraConfig(r=2, target_modules=targets, init_lora_weights=False),
    )
    for model in (adapted, adapted.get_base_model()):
        guide = lm.with_model(model)
        assert guide.calling.decoder is not None
        tokens = random_tokens(lm, 4, 6)
        stepped = step_through(guide, PROMPTS, tokens)
        assert float((stepped - step_through(lm, PROMPTS, tokens)).abs().max()) > 0.1
        assert_close(stepped, guide.token_log_probs(PROMPTS, tokens, torch.full((4,), 6)))


@fresh_peft
def test_the_decoder_follows_adapters_that_learn_and_that_are_switched_off():
    lm = tiny_models.tiny_lm("llama")
    adapted = get_peft_model(copy.deepcopy(lm.model), LoraConfig(r=2, target_modules="all-linear"))
    before = {name: tensor.clone() for name, tensor in adapted.state_dict().items()}
    guide = lm.with_model(adapted)
    assert guide.calling.decoder is not None
    # Trying how a model is called leaves it as it was.
    assert all(torch.equal(tensor, before[n]) for n, tensor in adapted.state_dict().items())
    tokens, lengths = random_tokens(lm, 4, 6), torch.full((4,), 6)
    prior = step_through(lm, PROMPTS, tokens)
    assert_close(step_through(guide, PROMPTS, tokens), prior)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    stepped = step_through(guide, PROMPTS, tokens)
    assert float((stepped - prior).abs().max()) > 0.1
    assert_close(stepped, guide.token_log_probs(PROMPTS, tokens, lengths))
    with adapted.disable_adapter():
        assert_close(step_through(guide, PROMPTS, tokens), prior)
    assert_close(step_through(guide, PROMPTS, tokens), stepped)


@fresh_peft
def test_the_decoder_does_not_step_adapters_that_do_more_than_a_product():
    lm = tiny_models.tiny_lm("llama")
    adapted = get_peft_model(
        copy.deepcopy(lm.model),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False, use_dora=True),
    )
    guide = lm.with_model(adapted)
    assert guide.calling.decoder is None
    tokens = random_tokens(lm, 4, 6)
    stepped = step_through(guide, PROMPTS, tokens)
    assert_close(stepped, guide.token_log_probs(PROMPTS, tokens, torch.full((4,), 6)))


class Outputs(dict):
    @property
    def logits(self) -> Tensor:
        return self["logits"]


def renamed(by: str, *, reads: bool = True) -> torch.nn.Module:
    """A model as of a later version: its forward pass takes the cache by the name `held`.

    One finds it `by` the annotation of the argument, or by the name of what is given back.
    """
    model, _ = tiny_models.tiny_model("llama")
    forward, name = model.forward, tiny_models.tiny_lm("llama").calling.cache_name

    def declares(*, held: Cache | None = None, **options):
        assert not {"cache", "past_key_values"} & options.keys()
        return Outputs(logits=forward(**options, **({name: held} if reads else {})).logits)

    def returns(**options):
        assert not {"cache", "past_key_values"} & options.keys()
        held = options.pop("held", None)
        outputs = forward(**options, **({name: held} if reads else {}))
        return Outputs(logits=outputs.logits, held=outputs.get(name))

    model.forward = {"annotation": declares, "output": returns}[by]
    return model


@pytest.mark.parametrize("by", ["annotation", "output"])
def test_a_cache_is_found_by_trying_whatever_its_argument_is_called(by):
    _, tokenizer = tiny_models.tiny_model("llama")
    lm = HuggingFaceLM(renamed(by), tokenizer, name="renamed")
    assert lm.calling.cache_name == "held"
    assert lm.calling.decoder is not None
    assert lm.slow_paths == ()
    lm.calling.decoder = None
    law_steps_add_up(lm)
    law_select_is_recompute(lm)


@pytest.mark.parametrize("by", ["annotation", "output"])
def test_a_cache_that_is_taken_and_not_read_is_not_used(by):
    _, tokenizer = tiny_models.tiny_model("llama")
    lm = HuggingFaceLM(renamed(by, reads=False), tokenizer, name="forgetful")
    assert lm.calling.windows is None
    assert lm.slow_paths == lm.notes
    assert "forgetful is recomputed from scratch at every token" in lm.slow_paths[0]
    law_steps_add_up(lm)
    law_select_is_recompute(lm)


def test_a_cache_that_is_read_at_wrong_positions_is_not_used():
    model, tokenizer = tiny_models.tiny_model("gpt2")
    forward = model.forward
    model.forward = lambda *, position_ids=None, **options: forward(**options)
    lm = HuggingFaceLM(model, tokenizer, name="unplaced")
    assert "does not agree" in lm.slow_paths[0]
    law_padding_is_invisible(lm)


@pytest.mark.parametrize("style", tiny_models.STYLES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_models_are_stepped_with_their_cache_in_every_precision(style, dtype):
    lm = tiny_models.tiny_lm(style, dtype)
    assert (lm.slow_paths == ()) == (style != "mamba")
    assert lm.calling.keeps_logits


def test_a_decoder_that_cannot_read_the_model_is_not_used(monkeypatch):
    def fails(*inputs):
        raise AttributeError("scaling")

    monkeypatch.setattr(LlamaDecoder, "__init__", fails)
    lm = tiny_models.tiny_lm("llama")
    assert lm.calling.decoder is None
    assert any("general forward pass" in note for note in lm.slow_paths)


def test_a_decoder_that_does_not_agree_is_not_used(monkeypatch):
    step = LlamaDecoder.step
    monkeypatch.setattr(LlamaDecoder, "step", lambda *inputs: 1.1 * step(*inputs))
    lm = tiny_models.tiny_lm("llama")
    assert lm.calling.decoder is None
    assert any("general forward pass" in note for note in lm.slow_paths)
    law_select_is_recompute(lm)


# bfloat16 keeps 8 bits of mantissa, float16 11. On a trained model, whose logits are within ±20
# nats, a token log prob moves by 0.02 nats on average in bfloat16 and (over 256 tokens) by less
# than half a nat at most; in float16 by an eighth of that.
@pytest.mark.parametrize("name", ["builtin:stories", "shared:stories260K-hf"])
@pytest.mark.parametrize(
    ("dtype", "mean", "most"), [("bfloat16", 0.05, 0.5), ("float16", 0.00625, 0.0625)]
)
def test_half_precision_moves_token_log_probs_by_less_than_the_stated_bound(
    name, dtype, mean, most
):
    lm = make(name)
    kind, _, rest = name.partition(":")
    source = name if kind == "builtin" else SHARED / "models" / rest
    half = load_language_model(source, dtype=dtype)
    tokens = random_tokens(lm, 8, 32, seed=9)
    generator = torch.Generator().manual_seed(9)
    prompts = ["Once upon a time"] * 8
    prefixes, stepped = lm.start(prompts), half.start(prompts)
    steps = []
    for step in range(32):
        uniforms = torch.rand(8, generator=generator, dtype=torch.float64)
        tokens[:, step] = draw_tokens(prefixes.row_logits(), uniforms).tokens
        logits = stepped.row_logits()
        assert logits.dtype == getattr(torch, dtype)
        # What a step costs is taken from the half logits in float32 or better, as draws do.
        steps.append(logits.double().log_softmax(-1).gather(1, tokens[:, step, None])[:, 0])
        prefixes = lm.extend(prefixes, tokens[:, step])
        stepped = half.extend(stepped, tokens[:, step])
    exact = lm.token_log_probs(prompts, tokens, torch.full((8,), 32))
    scored = half.token_log_probs(prompts, tokens, torch.full((8,), 32))
    assert scored.dtype == torch.float32
    for rough in (scored, torch.stack(steps, 1)):
        assert 0 < float((exact - rough).abs().mean()) <= mean
        assert float((exact - rough).abs().max()) <= most


# --- models that are wrong, and must be rejected ------------------------------------------------


class ForgetsToMoveTheCache(Wrong):
    """After `select`, tokens are appended to whatever rows lie first in storage."""

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        index = torch.arange(prefixes.num_rows) % prefixes.num_physical
        return self.lm.extend(dataclasses.replace(prefixes, index=index), tokens)


class FansOutWrongly(Wrong):
    """The first physical row answers for all that were deduplicated."""

    def extend(self, prefixes: Prefixes, tokens: Tensor) -> Prefixes:
        new = self.lm.extend(prefixes, tokens)
        return dataclasses.replace(new, index=torch.zeros_like(new.index), identity=False)


class ScoresTheTokenBefore(Wrong):
    """token_log_probs off by one position."""

    def token_log_probs(self, prompts, tokens, lengths):
        return self.lm.token_log_probs(prompts, tokens.roll(1, dims=1), lengths)


class SettlesEverything(Wrong):
    """An archive that does not look whether what it has is what is asked for."""

    def archive(self, num_rows: int, max_tokens: int) -> PrefixArchive | None:
        archive = self.lm.archive(num_rows, max_tokens)
        assert isinstance(archive, KVArchive)
        find = archive._find_missing

        def careless(rows, prompts, tokens, lengths):
            missing = find(rows, prompts, tokens, lengths)
            return missing if len(missing) == len(rows) else missing[:0]

        archive._find_missing = careless
        return archive


class LeaksProbability(Wrong):
    """Log probabilities that sum to less than one."""

    def start(self, prompts, *, max_new_tokens=None):
        prefixes = self.lm.start(prompts)
        return dataclasses.replace(prefixes, logits=prefixes.logits - 0.01)


@pytest.mark.parametrize(
    ("wrong", "law"),
    [
        (ForgetsToMoveTheCache, law_select_is_recompute),
        (FansOutWrongly, law_equal_rows_are_computed_once),
        (ScoresTheTokenBefore, law_steps_add_up),
    ],
)
@pytest.mark.parametrize("name", ["tiny:llama", "tiny:gemma2", "function:"])
def test_the_laws_reject_a_wrong_model(name, wrong, law):
    with pytest.raises(AssertionError):
        law(wrong(make(name)))


@pytest.mark.parametrize("name", ["tiny:llama", "tiny:gemma2"])
def test_the_laws_reject_an_archive_of_stale_prefixes(name):
    with pytest.raises(AssertionError):
        law_archive_is_recompute(SettlesEverything(make(name)))


def test_the_laws_reject_leaking_probability():
    with pytest.raises(AssertionError):
        law_rows_sum_to_one(LeaksProbability(make("function:")))


def test_the_laws_reject_positions_that_are_off_by_one(monkeypatch):
    lm = tiny_models.tiny_lm("llama")
    lm.calling.decoder = None
    forward = lm.model.forward

    def shifted(*, position_ids=None, **options):
        held = options.get(lm.calling.cache_name)
        late = held.column > 0 if held else False
        if late:
            position_ids = position_ids + 1
        return forward(position_ids=position_ids, **options)

    monkeypatch.setattr(lm.model, "forward", shifted)
    with pytest.raises(AssertionError):
        law_select_is_recompute(lm)


def test_the_laws_reject_padding_that_is_not_masked(monkeypatch):
    lm = tiny_models.tiny_lm("qwen2")
    lm.calling.decoder = None
    monkeypatch.setattr(ForwardPass, "_ready_mask", lambda *arguments: None)
    with pytest.raises(AssertionError):
        law_padding_is_invisible(lm)


# --- real models --------------------------------------------------------------------------------


def test_stories260k_greedy_text_is_the_known_one():
    """llama2.c's own test pins this text; its stories end with the start token, id 1."""
    lm = make("shared:stories260K-hf")
    prefixes = lm.start([""], max_new_tokens=200)
    ids: list[int] = []
    for _ in range(200):
        token = prefixes.row_logits().argmax(-1)
        ids.append(int(token))
        prefixes = lm.extend(prefixes, token)
    text = lm.vocab.decode(ids).removeprefix(" ")
    assert text.startswith(
        "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
        "park. One day, she saw a big, red ball. She wanted to play with it, but it was too high."
        "\nLily's mom said, \"Lily, let's go to the park.\" Lily was sad and didn't know what to "
        'do. She said, "I want to play with your ball, but I can\'t find it."\nLily was sad and '
        "didn't know what to do. She said, \"I'm sorry, Lily. I didn't know what to do.\"\nLily "
        "didn't want to help her mom, so she"
    )
    assert lm.vocab.eos_ids == {1, 2}
