"""From a Hugging Face tokenizer to a Vocabulary, and from prompts to token ids.

A tokenizer is accepted only if its decoder can be read as "every token adds these bytes", because
constraints, stop strings and text values are all defined on those bytes.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmppl.lm.protocol import Chat, Prompt, Vocabulary
from lmppl.lm.refusal import first_line, refusal

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def byte_of_character() -> dict[str, int]:
    """The inverse of GPT-2's byte-to-character table (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    table.update(
        (chr(0x100 + rank), byte)
        for rank, byte in enumerate(byte for byte in range(0x100) if byte not in printable)
    )
    return table


def rendered_chat(
    tokenizer: Any,
    messages: list[dict[str, str]],
    code: str,
    template: str,
    *,
    help: str,
    **options: bool,
) -> str:
    """What the tokenizer's chat template makes of the messages; `template` is its name in errors.

    Raises:
        InferenceError: `code`, it fails. A template is a program of the model's own; it may refuse
            a role, or be broken.
    """
    try:
        rendered: str = tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception as error:
        reason = first_line(error)
        said = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise refusal(code, f"{template} fails: {said}", help=help) from error
    return rendered


@dataclass(frozen=True, slots=True)
class _Decoder:
    """What a tokenizer's decoder does to the string of one token."""

    byte_level: bool = False
    byte_fallback: bool = False
    replacements: tuple[tuple[str, str], ...] = ()
    strips_leading_space: bool = False


def vocabulary_of(tokenizer: Any, size: int, eos_ids: frozenset[int]) -> Vocabulary:
    """The vocabulary of a fast tokenizer for a model with `size` logits.

    Special tokens, and rows of the embedding that no token uses, add no bytes.

    Raises:
        InferenceError: LMP914, the decoder is not a map from tokens to bytes.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise _unmappable("the tokenizer has no tokenizer.json (it is not a fast tokenizer)")
    spec = json.loads(backend.to_str())
    decoder = _read_decoder(spec.get("decoder"))
    added = {token["id"]: token for token in spec.get("added_tokens", ())}
    special = {token_id for token_id, token in added.items() if token["special"]}
    special.update(tokenizer.all_special_ids)
    characters = byte_of_character()
    token_bytes = [b""] * size
    _require_own(backend.get_vocab(with_added_tokens=False), size, set(added))
    for string, token_id in backend.get_vocab(with_added_tokens=True).items():
        if token_id >= size or token_id in special:
            continue
        if token_id in added:
            # Added tokens bypass the model, so their strings are text and not byte characters.
            token_bytes[token_id] = string.encode()
        else:
            token_bytes[token_id] = _bytes_of(string, decoder, characters)
    vocabulary = Vocabulary(
        size=size,
        token_bytes=tuple(token_bytes),
        eos_ids=eos_ids,
        strips_leading_space=decoder.strips_leading_space,
    )
    _verify(tokenizer, vocabulary)
    return vocabulary


def _require_own(vocab: dict[str, int], size: int, added: set[int]) -> None:
    """A tokenizer whose ordinary tokens have numbers of their own, all of which the model knows.

    Added tokens may lie beyond: padding that a model was never resized for is never used.
    """
    beyond = sorted((number, string) for string, number in vocab.items() if number >= size)
    if beyond := [(number, string) for number, string in beyond if number not in added]:
        raise _unmappable(
            f"{len(beyond)} of its tokens, the first {beyond[0][1]!r}, have numbers from"
            f" {beyond[0][0]} on, and the model has {size}: it belongs to another model"
        )
    known: dict[int, str] = {}
    for string, number in vocab.items():
        if number not in added and known.setdefault(number, string) != string:
            raise _unmappable(f"token {number} is both {known[number]!r} and {string!r}")


def special_tokens_of(tokenizer: Any, vocabulary: Vocabulary) -> dict[str, int]:
    """The tokens that add nothing to a text, by their spelling; also those that no model draws,
    because their number is beyond its vocabulary."""
    found = dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    found.update(
        (str(token), number)
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special
    )
    return {
        spelling: number
        for spelling, number in found.items()
        if spelling and not (number < vocabulary.size and vocabulary.token_bytes[number])
    }


def _unmappable(reason: str) -> Exception:
    return refusal(
        "LMP914",
        "this tokenizer cannot be read as a map from tokens to bytes",
        notes=(reason,),
        help="use a model with a byte-level BPE or a SentencePiece-style tokenizer.json",
    )


def _read_decoder(spec: dict[str, Any] | None) -> _Decoder:
    if spec is None:
        raise _unmappable("its tokenizer.json has no decoder, so spaces between tokens are guessed")
    parts = spec["decoders"] if spec["type"] == "Sequence" else [spec]
    byte_level = byte_fallback = strips = False
    replacements: list[tuple[str, str]] = []
    for part in parts:
        match part["type"]:
            case "ByteLevel":
                byte_level = True
            case "ByteFallback":
                byte_fallback = True
            case "Fuse":
                pass
            case "Replace" if "String" in part["pattern"]:
                replacements.append((part["pattern"]["String"], part["content"]))
            case "Metaspace":
                replacements.append((part["replacement"], " "))
                strips = part.get("prepend_scheme", "always") != "never"
            case "Strip" if part["content"] == " " and part["start"] <= 1 and not part["stop"]:
                strips = part["start"] == 1
            case other:
                raise _unmappable(f"its decoder has a part of type {other}: {json.dumps(part)}")
    if byte_level and (replacements or byte_fallback):
        raise _unmappable("its decoder mixes byte-level and SentencePiece-style parts")
    return _Decoder(byte_level, byte_fallback, tuple(replacements), strips)


def _bytes_of(string: str, decoder: _Decoder, characters: dict[str, int]) -> bytes:
    if decoder.byte_level:
        if all(character in characters for character in string):
            return bytes(characters[character] for character in string)
        # The byte-level decoder leaves a token with any other character as it stands.
        return string.encode()
    if decoder.byte_fallback and (byte := _BYTE_TOKEN.fullmatch(string)):
        return bytes([int(byte[1], 16)])
    for pattern, content in decoder.replacements:
        string = string.replace(pattern, content)
    return string.encode()


def _verify(tokenizer: Any, vocabulary: Vocabulary, num_samples: int = 24) -> None:
    """Compare with the tokenizer's own decoding, in context, on random suffixes.

    Suffixes that are not UTF-8 are left out: tokenizers disagree among themselves on how many
    U+FFFD stand for them, and a text is defined by its bytes here.
    """
    usable = [token for token, text in enumerate(vocabulary.token_bytes) if text]
    if not usable:
        raise _unmappable("every token of it is special")
    context = [token for token in tokenizer("a", add_special_tokens=False).input_ids]
    before = _decode(tokenizer, context)
    generator = random.Random(0)
    for _ in range(num_samples):
        suffix = [generator.choice(usable) for _ in range(generator.randint(1, 6))]
        expected = vocabulary.decode_bytes(suffix)
        try:
            text = expected.decode()
        except UnicodeDecodeError:
            continue
        if (found := _decode(tokenizer, context + suffix)) != before + text:
            raise _unmappable(
                f"tokens {suffix} after {before!r} decode to {found[len(before) :]!r}, "
                f"but their bytes read {text!r}"
            )


def _decode(tokenizer: Any, token_ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(
        list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


class PromptEncoder:
    """Prompts to token ids, never empty: a model needs something before the first token.

    The tokenizer's own special tokens are put before a prompt, but none after it.  A prompt that
    gives no tokens (the empty one, mostly) becomes the start token; where there is none, the end
    token, after which GPT-style models start a new text.
    """

    def __init__(
        self, tokenizer: Any, start_id: int | None, max_context: int | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._start_id = start_id
        # No token is longer than a few hundred characters, so more than this cannot fit.
        self._most = max(2**20, 256 * (max_context or 2**16))
        special = set(tokenizer.all_special_ids)
        probe = tokenizer("a").input_ids
        closing = 0
        while closing < len(probe) and probe[len(probe) - 1 - closing] in special:
            closing += 1
        self._num_closing = closing

    def __repr__(self) -> str:
        return f"<PromptEncoder of {type(self._tokenizer).__name__}, from {self._start_id}>"

    def __call__(self, prompt: Prompt) -> list[int]:
        """The token ids of one prompt.

        Raises:
            InferenceError: LMP912, far more than any context; LMP913, a chat without a template
                or with one that fails; LMP915, nothing to start from; LMP931, what no tokenizer
                reads.
        """
        # Not verbose, because a prompt that is too long is refused (LMP912) in our own words.
        if isinstance(prompt, Chat):
            text = self._readable(self._render(prompt))
            ids = list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        else:
            ids = list(self._tokenizer(self._readable(prompt), verbose=False).input_ids)
            if self._num_closing:
                ids = ids[: -self._num_closing]
        if ids:
            return ids
        if self._start_id is None:
            raise refusal(
                "LMP915",
                f"the prompt {prompt!r} gives no tokens, and this model has no start token",
                help="give a prompt of at least one token",
            )
        return [self._start_id]

    def _render(self, chat: Chat) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            raise refusal(
                "LMP913",
                "chat(...) needs a chat template, and this model's tokenizer has none",
                help="use an instruction-tuned model, or write the prompt as a string",
            )
        messages = [{"role": "user", "content": chat.user}]
        if chat.system is not None:
            messages.insert(0, {"role": "system", "content": chat.system})
        return rendered_chat(
            self._tokenizer,
            messages,
            "LMP913",
            "the chat template of this model's tokenizer",
            help="some models take no system message; or write the prompt as a string",
            add_generation_prompt=True,
        )

    def _readable(self, text: str) -> str:
        if len(text) > self._most:
            raise refusal(
                "LMP912",
                f"a prompt of {len(text):,} characters leaves no room for a text in any context",
                help="use a shorter prompt",
            )
        return _encodable(text)


def _encodable(text: str) -> str:
    """The text itself.

    Raises:
        InferenceError: LMP931, it has a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise refusal(
            "LMP931",
            f"the prompt has half a character, the lone surrogate U+{code:04X}, at position"
            f" {error.start}",
            notes=(
                f"the prompt is {ascii(text) if len(text) <= 60 else ascii(text[:57]) + '...'}",
            ),
            help="where it comes from bytes, decode them as UTF-8",
        ) from None
    return text
