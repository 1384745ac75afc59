"""What each code means, at more length than a diagnostic has room for: `lmppl explain LMP007`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """The title of a code and a paragraph about it, with a wrong and a right example."""

    title: str
    text: str


EXPLANATIONS: dict[str, Explanation] = {
    # ---- 0xx: syntax ----
    "LMP001": Explanation(
        "unexpected word or sign",
        """\
The parser met something that cannot stand at this place, and knows no better name for the mistake.
The remark beside the carets says what could have stood there. Often the real cause is a little
earlier: look at the end of the line before.

Wrong:
    sentiment(text)
Right:
    factor sentiment(text)
""",
    ),
    "LMP002": Explanation(
        "a bracket is never closed",
        """\
A `(`, `[` or `{` has no partner. The carets stand where the bracket was still missing when the next
statement began; the dashes show where it was opened. Newlines do not end anything in this language,
so only the bracket itself can.

Wrong:
    text ~ lm("gpt2", max_tokens=8
    return text
Right:
    text ~ lm("gpt2", max_tokens=8)
    return text
""",
    ),
    "LMP003": Explanation(
        "a closing bracket without its opening one",
        """\
A `)`, `]` or `}` closes nothing, or something of another kind.

Wrong:
    require never(text, words=["a", "b")]
Right:
    require never(text, words=["a", "b"])
""",
    ),
    "LMP004": Explanation(
        "a character without meaning",
        """\
Outside strings and comments a program is made of ASCII letters, digits, `_` and the signs
`( ) [ ] { } , : ; . ~ = < > ! + - * / ^ # "`. Names that need other letters, and invisible
characters that came along from a web page, are refused; inside strings everything is allowed.

Wrong:
    let größe = 3
Right:
    let size = 3
""",
    ),
    "LMP005": Explanation(
        "a string is not closed",
        """\
A string that starts with one `"` ends on its line. One over several lines is written between
three of them. In a raw string a backslash before the quotation sign keeps it inside the string, as
in Python, so `r"\\"` is not closed either.

Wrong:
    let a = "once upon
Right:
    let a = "once upon"
""",
    ),
    "LMP006": Explanation(
        "a comment of another language",
        """\
Comments start with `#` and go to the end of the line. `//` and `/* */` are not comments, and there
is no integer division.

Wrong:
    factor sentiment(text)   // be nice
Right:
    factor sentiment(text)   # be nice
""",
    ),
    "LMP007": Explanation(
        "`=`, `==` and `~` confused",
        """\
`x ~ D` draws a choice from a distribution. `let x = e` names a value that is not random. `==`
compares. A label is followed by a colon.

Wrong:
    text = lm("gpt2")
Right:
    text ~ lm("gpt2")
""",
    ),
    "LMP008": Explanation(
        "an unknown keyword",
        """\
A statement starts with `factor`, `require`, `observe`, `moment`, `expect`, `let` or `return`, or
with a name and `~`; outside a model stand `import`, `let`, `reward`, `extern`, `model` and `infer`.
The word that was found is close to one of them.

Wrong:
    requir never(text, words=["a"])
Right:
    require never(text, words=["a"])
""",
    ),
    "LMP009": Explanation(
        "an operator is missing",
        """\
Two values stand side by side. There is no implicit product; strings are not joined by standing
together either, but inside an f-string.

Wrong:
    factor beta length(text)
Right:
    factor beta * length(text)
""",
    ),
    "LMP010": Explanation(
        "a reserved word as a name",
        """\
The words import, as, reward, extern, model, infer, let, factor, require, when, observe, moment,
expect, return, if, then, else, or, and, not, in, true and false cannot name a choice, a value, a
label, a parameter or an argument. (`lm` and `function` can: they are words only after `extern`.)

Wrong:
    let model = "gpt2"
Right:
    let model_name = "gpt2"
""",
    ),
    "LMP011": Explanation(
        "the head of a model or declaration is incomplete",
        """\
A model has a name, a list of parameters, which may be empty but not absent, and a body in braces.

Wrong:
    model m
        x ~ bernoulli(0.5)
Right:
    model m() {
        x ~ bernoulli(0.5)
    }
""",
    ),
    "LMP012": Explanation(
        "foreign quotation signs",
        """\
Strings are written between straight double quotes. Single quotes, backquotes and the curved signs
that word processors make are refused.

Wrong:
    let a = 'once'
Right:
    let a = "once"
""",
    ),
    "LMP013": Explanation(
        "an operator of another language",
        """\
Logic is written with the words `and`, `or` and `not`; a power with `^`; the type of a result after
a colon. `>=` is always read as one operator, so a type before `=` needs a space: `real<lower=0> =`

Wrong:
    require finished(text) && !contains(text, "x")
Right:
    require finished(text) and not contains(text, "x")
""",
    ),
    "LMP014": Explanation(
        "a statement of another language",
        """\
There are no loops, no conditional statements and no definitions of functions: every program has a
fixed set of choices, which is what makes answers before the run possible. A set of draws is
`iid(D, n)`; a value that depends on a condition is `if c then a else b`; a constraint that holds
only sometimes is `require p when c`; code of the host is reached with `extern function`.

Wrong:
    if topic == "food" { require contains(text, "soup") }
Right:
    require contains(text, "soup") when topic == "food"
""",
    ),
    "LMP015": Explanation(
        "an unknown escape in a string",
        """\
Known are `\\n \\t \\r \\0 \\a \\b \\f \\v \\\\ \\" \\'`, `\\xhh`, `\\uhhhh` and `\\Uhhhhhhhh`.
A regular expression is best written as a raw string, in which a backslash is itself.

Wrong:
    require matches(text, "\\d+")
Right:
    require matches(text, r"\\d+")
""",
    ),
    "LMP016": Explanation(
        "an interpolation that is no name",
        """\
Between the braces of an f-string stands a name and nothing else; a brace that belongs to the text
is doubled.

Wrong:
    let prompt = f"Rate {score(text)}"
Right:
    let s = score(text)
    let prompt = f"Rate {s}"
""",
    ),
    "LMP017": Explanation(
        "not a number",
        """\
Integers are written `3` or `20_000`, real numbers `0.5`, `12.0` or `1e-3`, always with a digit on
both sides of the point. Integers have 64 bits. A name does not start with a digit.

Wrong:
    let beta = .5
Right:
    let beta = 0.5
""",
    ),
    "LMP018": Explanation(
        "nested too deeply",
        """\
An expression has more levels inside each other than the compiler follows. Name parts of it with
`let`; a long sum or list of conditions can be written as several `factor` or `require` lines.
""",
    ),
    "LMP019": Explanation(
        "at the wrong side of the braces",
        """\
Statements (`x ~ D`, `factor`, `require`, `observe`, `moment`, `expect`, `return`) belong inside a
model; `import`, `reward`, `extern`, `model` and `infer` belong outside. How to compute is no part
of what is modelled.

Wrong:
    model m() { x ~ bernoulli(0.5) infer exact() }
Right:
    model m() { x ~ bernoulli(0.5) }
    infer exact()
""",
    ),
    "LMP020": Explanation(
        "a sign is missing between two others",
        """\
With one more sign, mostly a comma or a colon, the program would go on.

Wrong:
    text ~ lm("gpt2" max_tokens=8)
Right:
    text ~ lm("gpt2", max_tokens=8)
""",
    ),
    "LMP021": Explanation(
        "a part is missing",
        """\
A statement or an operation stops before it is complete.

Wrong:
    factor sentiment(text) /
Right:
    factor sentiment(text) / beta
""",
    ),
    "LMP022": Explanation(
        "comparisons do not chain",
        """\
A comparison has two sides.

Wrong:
    require 3 <= length(text) <= 9
Right:
    require 3 <= length(text) and length(text) <= 9
""",
    ),
    "LMP023": Explanation(
        "not UTF-8",
        """\
A program is UTF-8 text, with or without a byte order mark, with Unix or Windows line ends. Some
editors still save in older encodings; choose UTF-8 when saving.
""",
    ),
    "LMP024": Explanation(
        "a positional argument after a named one",
        """\
As in Python, positional arguments come first, because nobody could tell which parameter a later one
is for.

Wrong:
    text ~ lm(max_tokens=8, "gpt2")
Right:
    text ~ lm("gpt2", max_tokens=8)
""",
    ),
    "LMP025": Explanation(
        "an argument is given twice",
        """\
The same name appears twice among the arguments of one call or the options of one `infer`.

Wrong:
    infer smc(seed=1, seed=2)
Right:
    infer smc(seed=1)
""",
    ),
    "LMP026": Explanation(
        "a comment to lmppl that cannot be read",
        """\
A comment that starts with `# lmp:` is an instruction, and a misspelt one must not be ignored in
silence. There is one instruction: `# lmp: allow` with one or more codes of warnings. It concerns
its own line or, when it stands alone, the next line with code.

Wrong:
    # lmp: ignore LMP202
Right:
    # lmp: allow LMP202
""",
    ),
    # ---- 91x: language models ----
    "LMP910": Explanation(
        "no such language model",
        """\
A language model is named in one of three ways, which are tried in this order: `builtin:NAME`, which
comes with lmppl and needs no network; a directory written by `save_pretrained`, relative to the
program; an id on the Hugging Face hub, which needs the network once and a local cache afterwards.
Nothing was found under the name given.

Wrong:
    text ~ lm("builtin:storys", max_tokens=40)
Right:
    text ~ lm("builtin:stories", max_tokens=40)
""",
    ),
    "LMP911": Explanation(
        "a language model that cannot be loaded",
        """\
There is something under this name, but it is not a causal language model that can be loaded: a file
is missing or damaged, the architecture is not one that predicts the next token, the dtype does not
exist, or the model brings Python code of its own. Such code is run only when the host says
`trust_remote_code=True`, after somebody has read it.
""",
    ),
    "LMP912": Explanation(
        "prompt and text do not fit the context",
        """\
A model was trained on texts up to some number of tokens, its context, and its probabilities mean
nothing beyond. The tokens of the prompt (after f-strings are filled in, with the start token) and
`max_tokens` must fit it together; this is checked before the first token is drawn.

Wrong:
    text ~ lm("builtin:stories", prompt=opener, max_tokens=1000)
Right:
    text ~ lm("builtin:stories", prompt=opener, max_tokens=200)
""",
    ),
    "LMP913": Explanation(
        "a chat without a template",
        """\
`prompt=chat(...)` is rendered by the chat template of the model's tokenizer, and this tokenizer has
none: the model was not trained on chats. Use an instruction-tuned model, or write the prompt as a
string in whatever form the model knows.
""",
    ),
    "LMP914": Explanation(
        "a tokenizer that is no map from tokens to bytes",
        """\
Constraints, stop strings and the text of a draw are defined on the bytes that each token adds. That
is possible for byte-level tokenizers (GPT-2, Llama 3, Qwen) and for SentencePiece-style ones
(Llama 2, Gemma, Mistral). It is not for tokenizers that guess the spaces between tokens, clean up
the text afterwards, or keep no tokenizer.json. It is checked at loading against the tokenizer's own
decoding.
""",
    ),
    "LMP915": Explanation(
        "nothing to start from",
        """\
A language model predicts the next token from the ones before, so it needs at least one. An empty
prompt stands for the start token, or for the end token where a model has no other. This model has
neither: give it a prompt.
""",
    ),
    "LMP916": Explanation(
        "not a language model table",
        """\
`markov("file.json")` reads an object with `tokens` (distinct strings), `initial` (one weight per
token), `transition` (one row of weights per token) and `eos` (null or one of the tokens). Weights
are finite and not negative, and no row is all zero but that of `eos`. `ngram("corpus.txt")` reads
UTF-8 text, each line of which is a text. The note says which part of the file is at fault.
""",
    ),
    "LMP917": Explanation(
        "a function that is no language model",
        """\
The function behind a `FunctionLM` gets token ids `[batch, length]` (length may be 0) and returns
natural log probabilities `[batch, vocab]`: no NaN, nothing above 0, each row summing to one within
1e-4. The note names the prefix for which that failed.

Wrong:
    FunctionLM(tokens=["a", "b"], eos=None, next_log_probs=lambda ids: scores(ids))
Right:
    FunctionLM(tokens=["a", "b"], eos=None,
               next_log_probs=lambda ids: scores(ids).log_softmax(-1))
""",
    ),
    "LMP918": Explanation(
        "a prompt that this model cannot read",
        """\
A Markov chain and a function of the host start from nothing and take no prompt. An n-gram model
takes one, but only of characters or words that its corpus has.
""",
    ),
}
