"""Train, export and evaluate the embedded language model ``builtin:stories``.

The package ships a language model so that every example and test runs offline, in
milliseconds and without an account anywhere. It has to be small (4 MB on disk), real (a
Llama-style Hugging Face directory, not a special case in our code) and as good as a couple
of hours of one CPU core can make it. That budget explains most choices in this file:

* few, wide layers and an own model class with stacked weights, because on one core the
  time goes to many small operations as much as to the matrix products;
* Muon for the matrices and Adam for the rest, as it needs clearly fewer tokens;
* a constant learning rate followed by a linear decay to zero. Up to the start of the decay
  nothing (neither rates nor data order) depends on the total number of steps, so that a
  run which turns out slower than planned can be resumed with an earlier decay and is still
  exactly the run that ``--steps``/``--decay-steps`` describe;
* few real stories, many synthetic ones: the share of real stories grows during the decay,
  when the model settles.

Run ``train.py --help`` for the options and see README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import lzma
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

END = "<|end|>"
HELD_OUT = 300
SPLIT_SEED = 20231
CONTEXT = 256
STRIDE = 128


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are those of the shipped model."""

    vocab: int = 2048
    dim: int = 160
    layers: int = 4
    heads: int = 5
    hidden: int = 384
    rope_theta: float = 10000.0
    eps: float = 1e-5


# ---------------------------------------------------------------------------- data


def clean(text: str) -> str:
    """Normalise what differs between sources but means nothing: outer space, line ends."""
    return text.replace("\r\n", "\n").strip()


def load_real(path: Path) -> tuple[list[str], list[str]]:
    """Return (training, held-out) real stories.

    The held-out ones are the last 300 after a shuffle with a fixed seed, so that every run
    of every version of this script is judged on the same stories.
    """
    texts = [clean(t) for t in json.loads(path.read_text(encoding="utf-8"))["texts"]]
    random.Random(SPLIT_SEED).shuffle(texts)
    return texts[:-HELD_OUT], texts[-HELD_OUT:]


def load_synthetic(path: Path) -> list[str]:
    """Return the sampled stories: a text file (.xz or plain), stories separated by END."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8") as handle:
        stories = [clean(s) for s in handle.read().split(END)]
    return [s for s in stories if s]


def shingles(text: str, n: int = 8) -> set[int]:
    """Hashes of the word n-grams of a story, case and punctuation dropped."""
    words = re.findall(r"[a-z0-9']+", text.lower())
    return {hash(tuple(words[i : i + n])) for i in range(len(words) - n + 1)}


def drop_near_duplicates(train: list[str], held_out: list[str], limit: float = 0.3) -> list[str]:
    """Drop training stories that share more than ``limit`` of a held-out story's 8-grams.

    TinyStories contains near-copies; leaving them in would flatter the evaluation.
    """
    owners: dict[int, list[int]] = {}
    sizes: list[int] = []
    for index, story in enumerate(held_out):
        grams = shingles(story)
        sizes.append(max(1, len(grams)))
        for gram in grams:
            owners.setdefault(gram, []).append(index)
    kept = []
    for story in train:
        counts: dict[int, int] = {}
        for gram in shingles(story):
            for index in owners.get(gram, ()):
                counts[index] = counts.get(index, 0) + 1
        if all(count / sizes[index] <= limit for index, count in counts.items()):
            kept.append(story)
    return kept


def build_tokenizer(stories: list[str], vocab: int) -> Any:
    """Train a lossless byte-level BPE tokenizer with END as token 0.

    All 256 byte tokens are in the vocabulary, so any UTF-8 text round-trips. The
    post-processor prepends END as Llama tokenizers prepend their BOS.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A",
        pair=f"{END} $A {END} $B",
        special_tokens=[(END, tokenizer.token_to_id(END))],
    )
    return tokenizer


def encode(tokenizer: Any, stories: list[str]) -> list[list[int]]:
    """Token ids of each story, without END on either side."""
    return [e.ids for e in tokenizer.encode_batch(stories, add_special_tokens=False)]


class Packer:
    """An endless, seeded stream of rows of CONTEXT + 1 tokens.

    Generation starts at END, so as many rows as possible start there too: a row starts
    either with a fresh story or with the rest of one that was cut (with some of its text
    repeated for context), and stories that fit the remaining space are preferred to
    cutting one. ``real_share`` is the probability that the next story drawn is a real one.
    """

    OVERLAP = 48
    POOL = 1024

    def __init__(self, real: list[list[int]], synthetic: list[list[int]], end: int, seed: int):
        self.rng = random.Random(seed)
        self.end = end
        self.sources = (real, synthetic)
        self.orders: tuple[list[int], list[int]] = ([], [])
        self.pool: list[list[int]] = []
        self.rests: list[list[int]] = []
        self.real_share = 0.0

    def _draw(self) -> list[int]:
        """The next story as END story END; every story once per pass over its source."""
        which = 0 if self.rng.random() < self.real_share or not self.sources[1] else 1
        order = self.orders[which]
        if not order:
            order.extend(range(len(self.sources[which])))
            self.rng.shuffle(order)
        return [self.end, *self.sources[which][order.pop()], self.end]

    def row(self) -> list[int]:
        """One training row."""
        size = CONTEXT + 1
        while len(self.pool) < self.POOL:
            self.pool.append(self._draw())
        if self.rests:
            row, cut = self.rests.pop(0), False
        else:
            row, cut = self.pool.pop(0), True
        if len(row) > size:
            self.rests.append(row[size - self.OVERLAP :])
            return row[:size]
        while len(row) < size:
            room = size - len(row) + 1  # the END between two stories is shared
            fits = [i for i, story in enumerate(self.pool) if len(story) <= room]
            best = max(fits, key=lambda i: len(self.pool[i]), default=None)
            if best is not None and (not cut or room - len(self.pool[best]) <= 8):
                row += self.pool.pop(best)[1:]
            elif room <= 24 or not cut:
                row += self.pool[0][1:room]  # a beginning seen twice costs nothing
            else:
                story = self.pool.pop(0)
                row += story[1:room]
                self.rests.append(story[max(0, room - self.OVERLAP) :])
        return row[:size]

    def batch(self, rows: int, real_share: float) -> Tensor:
        """``rows`` rows, the stories of which are real with the given probability."""
        self.real_share = real_share
        return torch.tensor([self.row() for _ in range(rows)])


# ---------------------------------------------------------------------------- model


class StoryLM(nn.Module):
    """A Llama network whose layers' weights are stacked in a few tensors.

    Stacking lets Muon orthogonalise all equal matrices in one batched product; ``state``
    gives the names and orientation of ``transformers.LlamaForCausalLM``.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = s = shape
        self.embed = nn.Parameter(torch.randn(s.vocab, s.dim) * 0.02)
        self.attn = nn.Parameter(torch.randn(s.layers, 4, s.dim, s.dim) * s.dim**-0.5)
        self.up = nn.Parameter(torch.randn(s.layers, 2, s.hidden, s.dim) * s.dim**-0.5)
        self.down = nn.Parameter(torch.randn(s.layers, s.dim, s.hidden) * s.hidden**-0.5)
        self.norms = nn.Parameter(torch.ones(s.layers * 2 + 1, s.dim))
        with torch.no_grad():  # branches start small, as deep residual nets like it
            self.attn[:, 3] *= (2 * s.layers) ** -0.5
            self.down *= (2 * s.layers) ** -0.5
        half = s.dim // s.heads // 2
        freq = s.rope_theta ** (-torch.arange(half) / half)
        angle = torch.outer(torch.arange(CONTEXT), freq).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def hidden_states(self, tokens: Tensor) -> Tensor:
        """The final normalised states for tokens (batch, time)."""
        s = self.shape
        b, t = tokens.shape
        head = s.dim // s.heads
        cos, sin = self.cos[:t], self.sin[:t]
        x = F.embedding(tokens, self.embed)
        for i in range(s.layers):
            h = F.rms_norm(x, (s.dim,), self.norms[2 * i], s.eps)
            qkv = F.linear(h, self.attn[i, :3].reshape(3 * s.dim, s.dim))
            q, k, v = qkv.view(b, t, 3, s.heads, head).permute(2, 0, 3, 1, 4)
            q, k = (
                y * cos + torch.cat((-y[..., head // 2 :], y[..., : head // 2]), -1) * sin
                for y in (q, k)
            )
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + F.linear(a.transpose(1, 2).reshape(b, t, s.dim), self.attn[i, 3])
            h = F.rms_norm(x, (s.dim,), self.norms[2 * i + 1], s.eps)
            gate, up = F.linear(h, self.up[i].reshape(2 * s.hidden, s.dim)).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, self.down[i])
        return F.rms_norm(x, (s.dim,), self.norms[-1], s.eps)

    def forward(self, rows: Tensor) -> Tensor:
        """Mean cross-entropy (nats per token) of rows of time + 1 tokens."""
        logits = F.linear(self.hidden_states(rows[:, :-1]), self.embed)
        return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    def state(self) -> dict[str, Tensor]:
        """Weights under Hugging Face's names."""
        out = {"model.embed_tokens.weight": self.embed, "model.norm.weight": self.norms[-1]}
        for i in range(self.shape.layers):
            at = f"model.layers.{i}."
            for j, name in enumerate(("q_proj", "k_proj", "v_proj", "o_proj")):
                out[f"{at}self_attn.{name}.weight"] = self.attn[i, j]
            out[f"{at}mlp.gate_proj.weight"] = self.up[i, 0]
            out[f"{at}mlp.up_proj.weight"] = self.up[i, 1]
            out[f"{at}mlp.down_proj.weight"] = self.down[i]
            out[f"{at}input_layernorm.weight"] = self.norms[2 * i]
            out[f"{at}post_attention_layernorm.weight"] = self.norms[2 * i + 1]
        return {k: v.detach().cpu() for k, v in out.items()}


class Muon:
    """Momentum whose update is orthogonalised by a Newton-Schulz iteration (Jordan 2024).

    Our own few lines rather than ``torch.optim.Muon``, which takes no stacks of matrices:
    many equal small matrices in one batched product cost far less than one by one.
    """

    def __init__(self, params: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.01):
        self.params, self.momentum, self.decay = params, momentum, decay
        self.buffers = [torch.zeros_like(p) for p in params]

    @staticmethod
    def orthogonalise(g: Tensor, steps: int = 5) -> Tensor:
        """The nearest (semi-)orthogonal matrices to a stack of matrices, roughly."""
        a, b, c = 3.4445, -4.7750, 2.0315
        tall = g.shape[-2] > g.shape[-1]
        x = g.mT if tall else g
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(steps):
            m = x @ x.mT
            x = a * x + (b * m + c * (m @ m)) @ x
        return x.mT if tall else x

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with Nesterov momentum and decoupled weight decay."""
        for p, buf in zip(self.params, self.buffers, strict=True):
            assert p.grad is not None
            buf.lerp_(p.grad, 1 - self.momentum)
            g = p.grad.lerp(buf, self.momentum)
            update = self.orthogonalise(g.reshape(-1, *g.shape[-2:])).view_as(p)
            p.mul_(1 - lr * self.decay)
            p.add_(update, alpha=-lr * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)


# ------------------------------------------------------------------------ evaluation


def windows(length: int) -> Iterator[tuple[int, int, int]]:
    """(first input, first scored target, end) of the windows over ``length`` targets.

    Each target is scored once, with the whole story before it or at least STRIDE tokens.
    """
    start, scored = 0, 0
    while scored < length:
        stop = min(start + CONTEXT, length)
        yield start, scored, stop
        scored = stop
        start = stop - STRIDE


@torch.no_grad()
def bits_per_character(logits: Any, tokenizer: Any, stories: list[str]) -> float:
    """Total -log2 p(story, END | END) over the total number of characters.

    ``logits`` maps tokens (1, time) to logits (1, time, vocabulary).
    """
    end = tokenizer.token_to_id(END)
    nats = 0.0
    for ids in encode(tokenizer, stories):
        inputs, targets = [end, *ids], [*ids, end]
        for start, scored, stop in windows(len(targets)):
            logp = logits(torch.tensor([inputs[start:stop]]))[0].float().log_softmax(-1)
            wanted = torch.tensor(targets[scored:stop], device=logp.device)
            nats -= logp[scored - start :].gather(1, wanted[:, None]).sum().item()
    return nats / math.log(2) / sum(map(len, stories))


def evaluate(directory: Path, stories: list[str]) -> float:
    """Bits per character of an exported model directory, loaded the way users load it."""
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    return bits_per_character(lambda tokens: model(tokens).logits, tokenizer, stories)


def sample(directory: Path, count: int, seed: int, prompt: str = "") -> list[str]:
    """Texts at temperature 1, nothing cut from the distribution, nothing selected."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    inputs = tokenizer([prompt] * count, return_tensors="pt")
    out = model.generate(
        input_ids=inputs.input_ids, attention_mask=inputs.attention_mask,
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_length=CONTEXT,
    )  # fmt: skip
    return tokenizer.batch_decode(out, skip_special_tokens=True)


# ---------------------------------------------------------------------------- export


def export(model: StoryLM, tokenizer: Any, out: Path) -> None:
    """Write the Hugging Face directory, weights in float16."""
    from safetensors.torch import save_file

    s = model.shape
    end = tokenizer.token_to_id(END)
    out.mkdir(parents=True, exist_ok=True)
    state = {k: v.to(torch.float16).contiguous() for k, v in model.state().items()}
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": s.vocab,
        "hidden_size": s.dim,
        "intermediate_size": s.hidden,
        "num_hidden_layers": s.layers,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.heads,
        "head_dim": s.dim // s.heads,
        "max_position_embeddings": CONTEXT,
        "hidden_act": "silu",
        "rms_norm_eps": s.eps,
        "rope_theta": s.rope_theta,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        **ids,
        "torch_dtype": "float16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END,
        "eos_token": END,
        "pad_token": END,
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    for name, content in (
        ("config.json", config),
        ("generation_config.json", {**ids, "max_length": CONTEXT}),
        ("tokenizer_config.json", tokenizer_config),
    ):
        (out / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


# -------------------------------------------------------------------------- training


def schedule(step: int, args: argparse.Namespace) -> tuple[float, float]:
    """(learning-rate factor, share of real stories) of a step.

    Warm-up, constant, linear decay to zero; the share of real stories is constant and
    then grows linearly during the decay.
    """
    rate = min(1.0, (step + 1) / args.warmup)
    done = max(0.0, (step - (args.steps - args.decay_steps)) / args.decay_steps)
    return rate * (1.0 - done), args.real_share + (args.real_share_end - args.real_share) * done


def train(args: argparse.Namespace) -> None:
    """Train as the arguments say, with checkpoints, and export to ``args.out``."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    real, held_out = load_real(args.stories)
    synthetic = load_synthetic(args.synthetic)
    before = len(real), len(synthetic)
    real, synthetic = (drop_near_duplicates(x, held_out) for x in (real, synthetic))
    print(f"stories real/synthetic {before}, kept {(len(real), len(synthetic))}", flush=True)
    shape = Shape(args.vocab, args.dim, args.layers, args.heads, args.hidden)
    tokenizer = build_tokenizer(real, shape.vocab)
    coded = encode(tokenizer, real), encode(tokenizer, synthetic)
    counts = [sum(map(len, c)) for c in coded]
    print(f"tokens {counts}, {sum(map(len, real)) / counts[0]:.3f} characters per token")

    model = StoryLM(shape).to(device)
    print(f"{sum(p.numel() for p in model.parameters())} parameters {asdict(shape)}", flush=True)
    muon = Muon([model.attn, model.up, model.down], decay=args.weight_decay)
    adam = torch.optim.AdamW(
        [model.embed, model.norms], betas=(0.9, 0.98), eps=1e-9, weight_decay=0.0
    )
    packer = Packer(*coded, tokenizer.token_to_id(END), args.seed)
    loss_of: Any = torch.compile(model) if args.compile else model
    first, spent = 0, 0.0
    if args.resume:
        saved = torch.load(args.resume, weights_only=True)
        model.load_state_dict(saved["model"])
        adam.load_state_dict(saved["adam"])
        muon.buffers = [b.to(device) for b in saved["muon"]]
        first, spent = saved["step"], saved["seconds"]
        for step in range(first):  # the data order is part of the run: wind it forward
            packer.batch(args.batch, schedule(step, args)[1])
    began, total, since = time.perf_counter() - spent, 0.0, 0
    saved_at = time.perf_counter()
    for step in range(first, args.steps):
        factor, share = schedule(step, args)
        rows = packer.batch(args.batch, share).to(device)
        loss = loss_of(rows)
        model.zero_grad(set_to_none=True)
        loss.backward()
        for group in adam.param_groups:
            group["lr"] = args.adam_lr * factor
        adam.step()
        muon.step(args.muon_lr * factor)
        total, since = total + loss.item(), since + 1
        last = step + 1 == args.steps
        if since == args.log_every or last:
            seconds = time.perf_counter() - began
            print(
                f"step {step + 1} loss {total / since:.4f} rate {factor:.3f} real {share:.2f} "
                f"{seconds:.0f} s {(step + 1) * args.batch * CONTEXT / seconds:.0f} tokens/s",
                flush=True,
            )
            total, since = 0.0, 0
        due = args.checkpoints and time.perf_counter() - saved_at > args.checkpoint_minutes * 60
        if due or (args.checkpoints and step + 1 == args.steps - args.decay_steps):
            saved_at = time.perf_counter()
            target = args.checkpoints / f"step{step + 1:06d}"
            export(model, tokenizer, target)
            torch.save(
                {
                    "model": model.state_dict(),
                    "adam": adam.state_dict(),
                    "muon": muon.buffers,
                    "step": step + 1,
                    "seconds": time.perf_counter() - began,
                },
                target / "resume.pt",
            )
        if (args.eval_every and (step + 1) % args.eval_every == 0) or last:
            stories = held_out if last else held_out[:60]

            def logits(tokens: Tensor) -> Tensor:
                return F.linear(model.hidden_states(tokens.to(device)), model.embed)

            bpc = bits_per_character(logits, tokenizer, stories)
            print(f"step {step + 1} bits per character {bpc:.4f} ({len(stories)} stories)")
    if args.out:
        export(model, tokenizer, args.out)


def main() -> None:
    """Parse the command line and train or evaluate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    add = parser.add_argument
    add("--stories", type=Path, required=True, help="JSON with key 'texts': real stories")
    add("--synthetic", type=Path, help=f"sampled stories separated by {END}, .xz or plain")
    add("--out", type=Path, help="directory to export the model to")
    add("--evaluate", type=Path, metavar="DIR", help="only evaluate an exported directory")
    add("--samples", type=int, default=0, help="with --evaluate: also print so many texts")
    add("--steps", type=int, default=4400)
    add("--decay-steps", type=int, default=1700)
    add("--warmup", type=int, default=100)
    add("--batch", type=int, default=16, help="rows of 256 tokens per step")
    add("--muon-lr", type=float, default=0.03)
    add("--adam-lr", type=float, default=0.004)
    add("--weight-decay", type=float, default=0.1)
    add("--real-share", type=float, default=0.2, help="of the stories, before the decay")
    add("--real-share-end", type=float, default=0.8, help="of the stories, at the end")
    add("--vocab", type=int, default=Shape.vocab)
    add("--dim", type=int, default=Shape.dim)
    add("--layers", type=int, default=Shape.layers)
    add("--heads", type=int, default=Shape.heads)
    add("--hidden", type=int, default=Shape.hidden)
    add("--seed", type=int, default=1)
    add("--threads", type=int, default=1)
    add("--device", help="default: cuda where there is one, otherwise cpu")
    add("--compile", action="store_true", help="use torch.compile (needs a C++ compiler)")
    add("--checkpoints", type=Path, help="directory for checkpoints")
    add("--checkpoint-minutes", type=float, default=12.0)
    add("--resume", type=Path, help="a checkpoint's resume.pt")
    add("--log-every", type=int, default=50)
    add("--eval-every", type=int, default=0)
    args = parser.parse_args()
    if args.evaluate:
        torch.set_num_threads(args.threads)
        print(f"bits per character {evaluate(args.evaluate, load_real(args.stories)[1]):.4f}")
        for text in sample(args.evaluate, args.samples, args.seed) if args.samples else ():
            print(f"---\n{text}")
    elif args.synthetic is None:
        parser.error("training needs --synthetic")
    else:
        train(args)


if __name__ == "__main__":
    main()
