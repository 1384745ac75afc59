"""A step of fixed shapes, compiled or captured, is the general step; else it is not used."""

from __future__ import annotations

import gc
import math
import shutil
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import tiny_models
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lmppl
from lmppl.errors import InferenceError
from lmppl.inference import METHODS, Settings
from lmppl.lm import grouped, static
from lmppl.lm.huggingface import HuggingFaceLM, calling
from lmppl.lm.huggingface.forward_pass import ForwardPass
from lmppl.lm.huggingface.scoring import Scoring
from lmppl.lm.huggingface.without_cache import UncachedEngine
from lmppl.lm.kernels import without_plans
from lmppl.lm.loading import load_language_model
from lmppl.lm.names import STEPPINGS
from lmppl.lm.protocol import Prefixes
from lmppl.lm.static import StaticStep

PROMPTS = ("the dog", "a", "the dog said hello to the cat and then", "the dog", "Tom was sad.")
STYLES = ("llama", "gpt2", "gpt_neox", "qwen2", "qwen3")
# float32 rounding, per token, in nats.
NATS = 2e-4


class Tape(TorchDispatchMode):
    """Operations recorded as a CUDA graph records them: on fixed memory, without their code.

    A replay reads and writes the very tensors of the recording, so an input that is not copied
    in, a number from the host or storage that has moved show as wrong results. Reading a number
    back to the host is an error, as it is in a capture.
    """

    def __init__(self, recorder: TapeRecorder) -> None:
        super().__init__()
        self.recorder = recorder
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.result = torch.empty(0)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        out = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, out))
        return out

    def replay(self) -> None:
        # Graphs that share a pool write over each other's results.
        for tape in self.recorder.tapes:
            tape.result.fill_(math.nan)
        for func, args, kwargs, out in self.operations:
            places = {
                leaf.untyped_storage().data_ptr()
                for leaf in tree_leaves((args, kwargs))
                if isinstance(leaf, Tensor)
            }
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                is_new = isinstance(old, Tensor) and old.untyped_storage().data_ptr() not in places
                if is_new and old.numel():
                    old.copy_(new)


class TapeRecorder:
    """Tapes in place of CUDA graphs; every one that was made is in `tapes`."""

    def __init__(self) -> None:
        self.tapes: list[Tape] = []

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Tape, Tensor]:
        work()
        with Tape(self) as tape:
            tape.result = work()
        self.tapes.append(tape)
        tape.result.fill_(math.nan)
        return tape, tape.result


def captured(lm: HuggingFaceLM) -> StaticStep:
    """Steps `lm` by tapes from now on, from the first step of a shape on."""
    config = lm.model.config
    step = StaticStep(
        lm.model,
        len(lm.calling.windows),
        mode="cuda-graph",
        name=lm.name,
        device=lm.device,
        keeps_logits=lm.calling.keeps_logits,
        cache_name=lm.calling.cache_name,
        adds_mask=config._attn_implementation == "eager",
        recorder=TapeRecorder,
    )
    # No device here captures, so tapes take the place of what is compiled.
    lm.calling._static_steps["step"] = step
    lm.stepping = "step"
    return step


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(static, "_PATIENCE", 0)


def pair(
    style: str, dtype: torch.dtype = torch.float32, num_layers: int = 2
) -> tuple[HuggingFaceLM, HuggingFaceLM]:
    """One model twice: stepped as transformers does, and free for another way."""
    model: Any
    model, tokenizer = tiny_models.tiny_model(style, dtype)
    if num_layers == 1:
        model.model.layers = model.model.layers[:1]
        model.config.num_hidden_layers = 1
    plain = HuggingFaceLM(model, tokenizer, name=f"tiny-{style}")
    lm = plain.with_model(plain.model)
    plain.calling.decoder = lm.calling.decoder = None
    return plain, lm


def walk(lm: HuggingFaceLM, seed: int = 0, num_tokens: int = 5) -> list[Tensor]:
    """Log probs at every step of a batch that is fanned out, thinned, resampled and recalled."""
    generator = torch.Generator().manual_seed(seed)
    found, drawn = [], []

    def steps(prefixes: Prefixes) -> Prefixes:
        for _ in range(num_tokens):
            tokens = torch.randint(0, lm.vocab.size, (prefixes.num_rows,), generator=generator)
            prefixes = lm.extend(prefixes, tokens)
            drawn.append(tokens)
            found.append(prefixes.row_logits().float().log_softmax(-1))
        return prefixes

    prefixes = steps(lm.start([*PROMPTS, *PROMPTS], max_new_tokens=4 * num_tokens))
    chosen, rows = torch.tensor([9, 0, 2, 2, 2, 7, 7]), torch.arange(7)
    prefixes = steps(prefixes.select(chosen))
    texts = torch.cat(
        [torch.stack(drawn[:num_tokens], 1)[chosen], torch.stack(drawn[num_tokens:], 1)], 1
    )
    prompts = [(*PROMPTS, *PROMPTS)[row] for row in chosen]
    archive = lm.archive(7, 2 * num_tokens)
    assert archive is not None
    archive.recall(rows, prompts, texts, torch.zeros_like(rows))
    archive.file(rows, prefixes)
    archive.settle(torch.ones_like(rows, dtype=torch.bool))
    kept = torch.tensor([1, 2 * num_tokens, 3, 0, num_tokens, 2, 4])
    recalled = archive.recall(rows, prompts, texts, kept)
    found.append(recalled.row_logits().float().log_softmax(-1))
    steps(recalled.select(torch.tensor([6, 5, 4, 3])))
    tokens = torch.randint(0, lm.vocab.size, (4, 3), generator=generator)
    resumed = lm.resume(PROMPTS[:4], tokens, torch.tensor([3, 0, 2, 1]), max_new_tokens=9)
    steps(resumed)
    return found


def largest_difference(left: list[Tensor], right: list[Tensor]) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("max_rows", [None, 3])
def test_a_captured_step_is_the_general_step(style, max_rows, impatient):
    plain, lm = pair(style)
    lm.max_rows = max_rows
    step = captured(lm)
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert step.failure is None
    assert step.num_programs > 0


def test_a_captured_step_serves_attention_that_adds_its_mask(impatient):
    plain, lm = pair("llama")
    plain.model.set_attn_implementation("eager")
    for each in (plain, lm):
        each.calling.takes_mask = False
    step = captured(lm)
    assert step._adds_mask
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert step.failure is None


# Eight bits of mantissa; these models' logits spread by several nats and are not trained to be
# stable. Both paths round, each in its own order.
@pytest.mark.parametrize(("dtype", "nats"), [(torch.bfloat16, 0.5), (torch.float16, 0.05)])
def test_a_captured_step_moves_half_precision_by_less_than_the_stated_bound(dtype, nats, impatient):
    plain, lm = pair("llama", dtype)
    step = captured(lm)
    assert largest_difference(walk(lm), walk(plain)) <= nats
    assert step.failure is None
    assert step.num_programs > 0


def test_shapes_that_pass_by_are_not_captured():
    _, lm = pair("llama")
    step = captured(lm)
    prefixes = lm.start(PROMPTS, max_new_tokens=8)
    for count in range(1, 5):
        prefixes = lm.extend(prefixes, torch.arange(5))
        assert step.num_programs == int(count > 2)


def test_graphs_of_storage_that_has_grown_are_captured_anew(impatient):
    plain, lm = pair("llama")
    step = captured(lm)
    tokens = torch.randint(0, lm.vocab.size, (5, 60), generator=torch.Generator().manual_seed(1))
    found, expected = [], []
    for each, kept in ((lm, found), (plain, expected)):
        # Room for 32 tokens, in whole blocks where steps are captured: it grows on the way.
        prefixes = each.start(PROMPTS)
        for column in range(60):
            prefixes = each.extend(prefixes, tokens[:, column])
            kept.append(prefixes.row_logits().log_softmax(-1))
    assert step.failure is None
    assert step.num_programs == 2
    assert largest_difference(found, expected) <= NATS


def test_graphs_are_dropped_when_parameters_move(impatient):
    plain, lm = pair("llama")
    step = captured(lm)
    prefixes = lm.extend(lm.start(PROMPTS, max_new_tokens=9), torch.arange(5))
    first = step._recorder
    lm.extend(prefixes, torch.arange(5))
    assert step._recorder is first
    for parameter in lm.model.parameters():
        parameter.data = parameter.data * 0.9
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert step._recorder is not first
    assert step.failure is None


def test_a_batch_lies_where_the_one_before_it_lay_and_finds_its_graphs(impatient):
    plain, lm = pair("llama")
    step = captured(lm)
    recorders, found = [], []
    for _ in range(3):
        recorders.append(step._recorder)
        prefixes = lm.start(["the dog"] * 20, max_new_tokens=8)
        for column in range(4):
            prefixes = lm.extend(prefixes, (torch.arange(20) * 7 + column) % lm.vocab.size)
        found.append(prefixes.row_logits())
        programs = step.num_programs
        del prefixes
    assert recorders[1] is recorders[2]
    assert len(step._recorder.tapes) == step.num_programs == programs == 1
    assert torch.equal(found[1], found[2])
    prefixes = plain.start(["the dog"] * 20, max_new_tokens=8)
    for column in range(4):
        prefixes = plain.extend(prefixes, (torch.arange(20) * 7 + column) % lm.vocab.size)
    assert (found[2] - prefixes.row_logits()).abs().max() <= NATS


def test_batches_that_live_at_a_time_share_no_memory(impatient):
    plain, lm = pair("llama")
    captured(lm)
    tokens = torch.arange(20)
    first = lm.extend(lm.start(["the dog"] * 20, max_new_tokens=8), tokens)
    second = lm.extend(lm.start(["a cat"] * 20, max_new_tokens=8), tokens)
    first, second = lm.extend(first, tokens + 1), lm.extend(second, tokens + 1)
    for prompt, found in (("the dog", first), ("a cat", second)):
        expected = plain.extend(plain.start([prompt] * 20, max_new_tokens=8), tokens)
        expected = plain.extend(expected, tokens + 1)
        assert (found.row_logits() - expected.row_logits()).abs().max() <= NATS


def test_keys_and_values_are_gone_with_their_batch():
    # Not at the next collection of Python's: on a GPU these are gigabytes.
    _, lm = pair("llama")
    prefixes = lm.extend(lm.start(PROMPTS, max_new_tokens=4), torch.arange(5))
    keys = weakref.ref(prefixes.state.storage.kept[0].keys)
    gc.disable()
    try:
        del prefixes
        assert keys() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("style", ["llama", "qwen2", "qwen3"])
def test_heads_of_a_group_read_their_keys_together(style, impatient, monkeypatch):
    _, lm = pair(style)
    shapes = []

    def watched(query: Tensor, key: Tensor, *args: Any) -> Tensor:
        shapes.append((tuple(query.shape), tuple(key.shape)))
        return attend(query, key, *args)

    attend = grouped.attend

    monkeypatch.setattr(grouped, "attend", watched)
    captured(lm)
    prefixes = lm.extend(lm.start(PROMPTS, max_new_tokens=4), torch.arange(5))
    # Four heads over two of keys and values: two queries for each.
    assert {(query[1:3], key[1]) for query, key in shapes} == {((2, 2), 2)}
    assert lm.model.config._attn_implementation == "sdpa"
    before = len(shapes)
    lm.stepping = "none"
    lm.extend(prefixes, torch.arange(5))
    assert len(shapes) == before


def attention_of(
    device: str, dtype: torch.dtype
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor, float], Tensor]:
    """Keys and values as a window of storage shows them, and what attention in float64 gives."""
    generator = torch.Generator().manual_seed(0)
    rows, heads, groups, dim, columns = 5, 2, 3, 8, 6

    def made(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    query = made(rows, heads, groups, dim)
    key, value = (made(2 * rows, heads, 2 * columns, dim)[3:8, :, :columns] for _ in range(2))
    seen = torch.arange(columns) >= torch.tensor([0, 1, 5, 2, 0])[:, None]
    mask = torch.zeros(rows, columns, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
    mask = mask.to(device)[:, None, None]
    inputs = (query, key, value, mask, 0.3)
    exact = functional.scaled_dot_product_attention(
        *(each.double() for each in inputs[:3]), attn_mask=mask.double(), scale=0.3
    )
    return inputs, exact


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_two_products_attend_as_torch_does(dtype):
    inputs, exact = attention_of("cpu", dtype)
    found = grouped.by_products(*inputs)
    assert (found.double() - exact).abs().max() <= 16 * torch.finfo(dtype).eps
    assert (grouped.attend(*inputs).double() - exact).abs().max() <= 16 * torch.finfo(dtype).eps


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_two_products_attend_as_torch_does_on_a_gpu(dtype):
    inputs, exact = attention_of("cuda", dtype)
    assert (grouped.attend(*inputs).double() - exact).abs().max() <= 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_attention_is_not_planned_anew_for_every_shape_on_a_gpu(device):
    class Placed:
        device: torch.device

        @without_plans
        def plans(self, *, fails: bool = False) -> bool:
            if fails:
                raise ValueError
            return torch.backends.cuda.cudnn_sdp_enabled()

    placed = Placed()
    placed.device = torch.device(device)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    assert placed.plans() is (device == "cpu")
    with pytest.raises(ValueError):
        placed.plans(fails=True)
    assert torch.backends.cuda.cudnn_sdp_enabled()


def test_every_call_of_the_model_is_made_without_plans():
    for method in (
        ForwardPass._generally,
        ForwardPass.without_cache,
        UncachedEngine._forward,
        Scoring.sequence_logits,
    ):
        assert hasattr(method, "__wrapped__")


def test_results_outlive_the_next_replay(impatient):
    _, lm = pair("llama")
    captured(lm)
    prefixes = lm.extend(lm.start(PROMPTS, max_new_tokens=9), torch.arange(5))
    logits = prefixes.logits
    before = logits.clone()
    lm.extend(prefixes, torch.arange(5))
    assert torch.equal(logits, before)


# --- steps that are wrong, and must be rejected -------------------------------------------------

FILL, SHOW = static._fill, static._show


def late_column(program, storage, first_row, num_live, column, pads):
    FILL(program, storage, first_row, num_live, column, pads)
    program.column.fill_(min(column + 1, storage.num_columns - 1))


def early_column(program, storage, first_row, num_live, column, pads):
    FILL(program, storage, first_row, num_live, column, pads)
    program.column.fill_(column - 1)


def no_padding(program, storage, first_row, num_live, column, pads):
    FILL(program, storage, first_row, num_live, column, None)


def yesterdays_tokens(program, storage, first_row, num_live, column, pads):
    FILL(program, storage, first_row, num_live, column, pads)
    program.tokens.copy_(storage.tokens[first_row : first_row + len(program.tokens), column - 1])


@pytest.mark.parametrize("wrong", [late_column, early_column, no_padding, yesterdays_tokens])
def test_a_wrong_step_is_rejected_and_undone(wrong, impatient, monkeypatch):
    plain, lm = pair("llama")
    step = captured(lm)
    monkeypatch.setattr(static, "_fill", wrong)
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert step.failure is not None
    assert any("logits differ" in note for note in lm.notes)


def test_a_wrong_step_of_a_part_of_the_rows_is_undone_in_all(impatient, monkeypatch):
    plain, lm = pair("llama")
    lm.max_rows = 2
    captured(lm)
    monkeypatch.setattr(static, "_fill", early_column)
    assert largest_difference(walk(lm), walk(plain)) <= NATS


def test_a_step_that_reads_back_to_the_host_is_not_captured(impatient):
    plain, lm = pair("llama")
    step = captured(lm)

    def read_back(module, inputs):
        if not bool(inputs[0].isfinite().all()):
            raise AssertionError

    handle = lm.model.model.norm.register_forward_pre_hook(read_back)
    try:
        assert largest_difference(walk(lm), walk(plain)) <= NATS
    finally:
        handle.remove()
    assert step.failure is not None and "not permitted" in step.failure


@pytest.mark.parametrize(
    ("dtype", "factor", "same"),
    [
        (torch.float32, 1.0005, True),
        (torch.float32, 1.01, False),
        (torch.bfloat16, 1.02, True),
        (torch.bfloat16, 1.2, False),
        (torch.float32, math.nan, False),
    ],
)
def test_agreement_is_up_to_the_precision_of_the_dtype(dtype, factor, same):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 50, generator=generator).to(dtype)
    other = logits.clone()
    other[1] = logits[1] * factor
    assert static.agrees(other, logits) is same


# --- torch.compile ------------------------------------------------------------------------------


@pytest.fixture
def traced(monkeypatch):
    """Compiled steps are traced as ever, but run as they are: no code is generated."""
    monkeypatch.setattr(calling, "StaticStep", partial(StaticStep, backend="eager"))


@pytest.mark.parametrize("style", ["llama", "gpt2"])
def test_a_traced_step_is_the_general_step(style, traced):
    plain, lm = pair(style)
    lm.stepping = "step"
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert [note for note in lm.notes if "stepped by a compiled step" in note]
    programs = lm.static.num_programs
    walk(lm, seed=1)
    assert lm.static.num_programs == programs
    lm.stepping = "none"
    assert not [note for note in lm.notes if "compiled" in note]


def test_as_many_shapes_are_compiled_as_is_allowed_and_no_more(traced, monkeypatch):
    # torch itself gives up after some shapes of one function.
    monkeypatch.setattr(static, "_FEWEST_ROWS", 1)
    monkeypatch.setattr(static, "_MAX_COMPILED", 3)
    plain, lm = pair("llama")
    lm.stepping = "step"
    with torch._dynamo.config.patch(recompile_limit=1):
        for rows in range(1, 6):
            for each in (plain, lm):
                prompts = [f"{PROMPTS[row % 5]} {row}" for row in range(rows)]
                prefixes = each.start(prompts, max_new_tokens=4)
                prefixes = each.extend(prefixes, torch.arange(rows))
                if each is plain:
                    expected = prefixes.row_logits().log_softmax(-1)
            assert largest_difference([prefixes.row_logits().log_softmax(-1)], [expected]) <= NATS
    assert lm.static.failure is None
    assert lm.static.num_programs == 3
    assert any("3 shapes" in note for note in lm.notes)


@pytest.mark.skipif(
    shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler"
)
def test_a_compiled_step_is_the_general_step():
    # Compiling takes seconds a layer.
    plain, lm = pair("llama", num_layers=1)
    lm.stepping = "step"
    tokens = torch.randint(0, lm.vocab.size, (5, 6), generator=torch.Generator().manual_seed(1))
    found, expected = [], []
    for each, kept in ((lm, found), (plain, expected)):
        prefixes = each.start(PROMPTS, max_new_tokens=6)
        for column in range(6):
            prefixes = each.extend(prefixes, tokens[:, column])
            kept.append(prefixes.row_logits().log_softmax(-1))
    assert lm.static.failure is None
    assert lm.static.num_programs == 1
    assert largest_difference(found, expected) <= NATS


def test_a_compiler_that_fails_leaves_the_general_step(monkeypatch):
    def no_compiler(*arguments, **options):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    plain, lm = pair("llama")
    lm.stepping = "step"
    assert largest_difference(walk(lm), walk(plain)) <= NATS
    assert any("no C++ compiler" in note and "was found" not in note for note in lm.notes)


@pytest.mark.parametrize(("style", "why"), [("mamba", "no cache"), ("mistral", "sliding window")])
def test_models_that_cannot_be_stepped_so_say_why(style, why):
    lm = tiny_models.tiny_lm(style)
    before = lm.notes
    lm.stepping = "step"
    assert any("not compiled" in note and why in note for note in lm.notes)
    lm.extend(lm.start(PROMPTS, max_new_tokens=4), torch.arange(5))
    lm.stepping = "none"
    assert lm.notes == before


# --- the option ---------------------------------------------------------------------------------

PROGRAM = """
model stepped() {{
    text ~ lm("{source}", prompt="the dog said hello to the cat and then", max_tokens=8)
    factor short: -0.2 * length(text)
    return text
}}
"""


def texts_of(directory, **options) -> tuple[list[str], Any]:
    bound = lmppl.compile(PROGRAM.format(source=directory.as_posix()))()
    if "method" not in options:
        options |= {"method": "smc", "num_particles": 24}
    post = lmppl.infer(bound, seed=3, progress=False, **options)
    return post.texts, post.manifest


def test_a_seed_draws_the_same_texts_by_every_step(tmp_path, traced):
    directory = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    plain, _ = texts_of(directory)
    stepped, manifest = texts_of(directory, compile="step")
    in_parts, _ = texts_of(directory, compile="step", max_rows=5)
    assert stepped == plain
    assert in_parts == plain
    assert manifest["settings"]["compile"] == "step"
    assert "stepped by a compiled step" in str(manifest["language_models"])
    lm = load_language_model(directory)
    assert lm.stepping == "none"
    assert lm.notes == ()


def test_chains_that_keep_their_keys_and_values_draw_the_same_by_every_step(tmp_path, traced):
    # Its steps are the decoder's otherwise, over a prefix that all chains share.
    directory = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    chains = {"method": "mcmc", "num_chains": 4, "num_samples": 25, "warmup_steps": 5}
    plain, _ = texts_of(directory, **chains)
    stepped, manifest = texts_of(directory, compile="step", **chains)
    assert stepped == plain
    assert "stepped by a compiled step" in str(manifest["language_models"])


def test_cuda_graphs_without_a_cuda_device_are_refused(tmp_path):
    directory = tiny_models.save_tiny_model("llama", tmp_path / "llama")
    with pytest.raises(InferenceError, match=r"(?s)LMP403.*CUDA device.*device=\"cuda\""):
        texts_of(directory, compile="cuda-graph")
    assert load_language_model(directory).stepping == "none"


def test_every_method_offers_the_ways_of_stepping_that_there_are():
    for method in (Settings, *METHODS):
        setting = method.__dataclass_fields__["compile"]
        assert setting.metadata["choices"] == STEPPINGS
        assert setting.default == STEPPINGS[0]


# --- on a GPU -----------------------------------------------------------------------------------


@pytest.mark.cuda
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    ("dtype", "nats"), [(torch.float32, 2e-3), (torch.bfloat16, 0.5), (torch.float16, 0.05)]
)
def test_cuda_graphs_are_the_general_step(style, dtype, nats, impatient):
    model, tokenizer = tiny_models.tiny_model(style, dtype)
    plain = HuggingFaceLM(model.to("cuda"), tokenizer, name=style)
    plain.calling.decoder = None
    lm = plain.with_model(plain.model)
    lm.stepping = "cuda-graph"
    for seed in range(3):
        assert largest_difference(on_cuda(lm, seed), on_cuda(plain, seed)) <= nats
    assert lm.static.failure is None
    assert lm.static.num_programs > 0


def on_cuda(lm: HuggingFaceLM, seed: int) -> list[Tensor]:
    found, generator = [], torch.Generator().manual_seed(seed)
    prefixes = lm.start([*PROMPTS, *PROMPTS], max_new_tokens=12)
    for step in range(12):
        if step == 6:
            prefixes = prefixes.select(torch.tensor([9, 0, 2, 2, 2, 7, 7], device="cuda"))
        tokens = torch.randint(0, lm.vocab.size, (prefixes.num_rows,), generator=generator)
        prefixes = lm.extend(prefixes, tokens.to("cuda"))
        found.append(prefixes.row_logits().float().log_softmax(-1).cpu())
    return found
