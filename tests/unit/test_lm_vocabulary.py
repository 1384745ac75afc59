"""The bytes of tokens agree with the tokenizer's own decoding, in context."""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from lmppl.errors import InferenceError
from lmppl.lm.protocol import Vocabulary
from lmppl.lm.tokenization import PromptEncoder, byte_of_character, vocabulary_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "laws"))

from tiny_models import CORPUS, byte_level_tokenizer, sentencepiece_tokenizer

TOKENIZERS = {
    "byte-level": byte_level_tokenizer,
    "sentencepiece that strips": sentencepiece_tokenizer,
    "sentencepiece that keeps": lambda: sentencepiece_tokenizer(strips=False),
}


def decode(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_random_suffix_decodes_as_it_does_after_its_prompt(name):
    tokenizer = TOKENIZERS[name]()
    vocab = vocabulary_of(tokenizer, len(tokenizer), frozenset())
    generator = random.Random(1)
    prompt = tokenizer("the dog").input_ids
    before = decode(tokenizer, prompt)
    compared = 0
    for _ in range(400):
        suffix = [generator.randrange(vocab.size) for _ in range(generator.randint(1, 5))]
        try:
            vocab.decode_bytes(suffix).decode()
        except UnicodeDecodeError:
            continue
        # unk is special to us; tokenizers spell it out when it is not skipped.
        assert decode(tokenizer, prompt + suffix) == before + vocab.decode(suffix)
        compared += 1
    assert compared > 100


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", CORPUS)
def test_text_that_is_encoded_comes_back_as_bytes(name, text):
    tokenizer = TOKENIZERS[name]()
    vocab = vocabulary_of(tokenizer, len(tokenizer), frozenset())
    decoded = vocab.decode(tokenizer(text, add_special_tokens=False).input_ids)
    assert decoded.removeprefix(" " if vocab.strips_leading_space else "") == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_an_empty_prompt_loses_one_space_only_where_the_vocabulary_says_so(name):
    tokenizer = TOKENIZERS[name]()
    vocab = vocabulary_of(tokenizer, len(tokenizer), frozenset())
    ids = tokenizer("  the", add_special_tokens=False).input_ids
    whole = vocab.decode(ids)
    assert whole.startswith("  ")
    expected = whole[1:] if vocab.strips_leading_space else whole
    start = PromptEncoder(tokenizer, None if tokenizer.bos_token_id is None else 1)
    prompt = start("") if tokenizer.bos_token_id is not None else []
    assert decode(tokenizer, [*prompt, *ids]) == expected


def test_a_suffix_may_end_inside_a_character():
    tokenizer = byte_level_tokenizer()
    vocab = vocabulary_of(tokenizer, len(tokenizer), frozenset())
    byte = {text: token for token, text in enumerate(vocab.token_bytes)}
    assert vocab.decode([byte[b"\xe6"], byte[b"\x97"]]) == "\ufffd"
    assert vocab.decode([byte[b"\xe6"], byte[b"\x97"], byte[b"\xa5"]]) == "日"


def test_every_byte_has_its_character_in_the_byte_level_table():
    table = byte_of_character()
    assert sorted(table.values()) == list(range(256))
    assert table["Ġ"] == 0x20 and table["Ċ"] == 0x0A and table["A"] == 0x41


def test_special_tokens_and_unused_rows_add_nothing():
    tokenizer = sentencepiece_tokenizer()
    vocab = vocabulary_of(tokenizer, len(tokenizer) + 5, frozenset([2]))
    assert [vocab.token_bytes[token] for token in range(4)] == [b""] * 4
    assert vocab.token_bytes[-5:] == (b"",) * 5


def test_an_added_token_that_is_not_special_is_text():
    tokenizer = byte_level_tokenizer()
    tokenizer.add_tokens(["<über>"])
    vocab = vocabulary_of(tokenizer, len(tokenizer), frozenset())
    assert vocab.token_bytes[-1] == "<über>".encode()


def word_level_tokenizer() -> transformers.PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "dog": 1, "?": 2}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


def wordpiece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    backend = tokenizers.Tokenizer(models.WordPiece({"a": 0, "##b": 1, "?": 2}, unk_token="?"))
    backend.decoder = decoders.WordPiece()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


@pytest.mark.parametrize("make", [word_level_tokenizer, wordpiece_tokenizer])
def test_a_tokenizer_that_guesses_spaces_is_refused(make):
    with pytest.raises(InferenceError, match="map from tokens to bytes") as caught:
        vocabulary_of(make(), 3, frozenset())
    assert caught.value.diagnostics[0].code == "LMP914"


def test_a_decoder_that_was_read_wrongly_is_noticed():
    """Strip at the start only: a decoder that strips more is not a map from tokens to bytes."""
    tokenizer = sentencepiece_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Strip(" ", 1, 0)]
    )
    with pytest.raises(InferenceError) as caught:
        vocabulary_of(tokenizer, len(tokenizer), frozenset())
    assert caught.value.diagnostics[0].code == "LMP914"


def test_a_closing_special_token_is_left_off_prompts():
    tokenizer = sentencepiece_tokenizer()
    tokenizer.backend_tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    ids = PromptEncoder(tokenizer, 1)("the dog")
    assert ids[0] == 1 and ids[-1] != 2
    assert PromptEncoder(tokenizer, 1)("") == [1]


def test_a_vocabulary_is_checked():
    with pytest.raises(ValueError, match="2 token strings for 3"):
        Vocabulary(3, (b"a", b"b"), frozenset())
    with pytest.raises(ValueError, match="outside"):
        Vocabulary(2, (b"a", b"b"), frozenset([2]))


def test_the_digest_tells_vocabularies_apart():
    digests = {
        Vocabulary(2, (b"a", b"b"), frozenset()).digest,
        Vocabulary(2, (b"ab", b""), frozenset()).digest,
        Vocabulary(2, (b"a", b"b"), frozenset([1])).digest,
        Vocabulary(2, (b"a", b"b"), frozenset(), strips_leading_space=True).digest,
    }
    assert len(digests) == 4


def test_half_a_character_in_a_prompt_is_refused():
    encode = PromptEncoder(sentencepiece_tokenizer(), 1)
    for prompt in ("the \ud83d dog", "caf\udce9"):
        with pytest.raises(InferenceError, match="lone surrogate U\\+D") as caught:
            encode(prompt)
        assert caught.value.diagnostics[0].code == "LMP931"
    assert encode("the \U0001f600 dog")


def test_only_we_complain_of_a_prompt_that_is_too_long():
    tokenizer = sentencepiece_tokenizer()
    tokenizer.model_max_length = 4
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        assert len(PromptEncoder(tokenizer, 1)("the dog " * 9)) > 4
        assert said == []
        tokenizer("the dog " * 9)
        assert len(said) == 1
    finally:
        logger.removeHandler(handler)
