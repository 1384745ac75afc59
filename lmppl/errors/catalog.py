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
is no integer division: `/` divides, and `a // b` would lose the `b` if it became a comment.

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
fixed set of choices, which is what makes answers before the run possible. Several draws are written
out, each under its own name; a value that depends on a condition is `if c then a else b`; a
constraint that holds only sometimes is `require p when c`; code of the host is reached with
`extern function`.

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
    "LMP027": Explanation(
        "a program that cannot be read",
        """\
There is no such file, it is a directory, or it may not be read; or the host gave something to
`lmppl.load` that is no path, or to `lmppl.compile` that is no text. Relative paths are looked up
from the working directory.
""",
    ),
    "LMP028": Explanation(
        "a string that is too long",
        """\
F-strings make strings of at most a million characters, since a few lines that each double a string
would fill any memory; words that a text must or must not contain have no more than that together.
A string that is read from a file as it is may be longer.
""",
    ),
    # ---- 1xx: names and types ----
    "LMP101": Explanation(
        "an unknown name",
        """\
Nothing with this name has been declared: no parameter, choice, `let`, reward, function or
distribution. Names inside f-strings count too. The help line says which name is nearest.

Wrong:
    factor sentimant(text)
Right:
    factor sentiment(text)
""",
    ),
    "LMP102": Explanation(
        "an unknown type",
        """\
The types are `string`, `int`, `real`, `bool` and `uncertain` (for rewards), each also as an array
such as `string[]`.

Wrong:
    model m(prompt: str) { … }
Right:
    model m(prompt: string) { … }
""",
    ),
    "LMP103": Explanation(
        "a name that is already taken",
        """\
Nothing shadows anything in this language: one name has one meaning in a file. Rewards and externs
also cannot be called like a built-in, and a value cannot be returned twice.

Wrong:
    model m(beta: real) { let beta = 2 … }
Right:
    model m(beta: real) { let doubled = 2 * beta … }
""",
    ),
    "LMP104": Explanation(
        "a choice drawn twice",
        """\
The name of a choice is its address: the place in a draw where its value stands. Two choices need
two names.

Wrong:
    text ~ lm("gpt2", prompt=a, max_tokens=8)
    text ~ lm("gpt2", prompt=b, max_tokens=8)
Right:
    first ~ lm("gpt2", prompt=a, max_tokens=8)
    second ~ lm("gpt2", prompt=b, max_tokens=8)
""",
    ),
    "LMP105": Explanation(
        "a type that does not fit",
        """\
A value of one type stands where another is wanted: a number where a string is, a condition in
arithmetic, the two branches of an `if` of different types. An int may stand for a real; nothing
else is converted silently. Strings are joined with f-strings, conditions become numbers with
`if c then 1 else 0`.

Wrong:
    factor text * 2
Right:
    factor length(text, unit="words") * 2
""",
    ),
    "LMP106": Explanation(
        "a value out of its bounds",
        """\
A declared range is a promise that other steps rely on, so a value that breaks it, or might break
it, is refused. What is only known as a range can be bounded with `clamp(x, lower=…, upper=…)`.

Wrong:
    model m(weight: real<lower=0, upper=1> = 1.5) { … }
Right:
    model m(weight: real<lower=0, upper=1> = 0.5) { … }
""",
    ),
    "LMP107": Explanation(
        "a missing argument",
        """\
A call leaves out something that has no default. An `lm` needs `prompt` (which may be "") and
`max_tokens`, because only a longest length makes it a normalised distribution.

Wrong:
    text ~ lm("gpt2", prompt=prompt)
Right:
    text ~ lm("gpt2", prompt=prompt, max_tokens=40)
""",
    ),
    "LMP108": Explanation(
        "an argument too many",
        """\
More values are given by their place than the call takes, or the options of `infer` are given
without names.

Wrong:
    infer smc(256)
Right:
    infer smc(num_particles=256)
""",
    ),
    "LMP109": Explanation(
        "an unknown argument or bound",
        """\
The name before `=` is none of the arguments of this call, or none of the bounds of this type.

Wrong:
    text ~ lm("gpt2", prompt=prompt, max_token=40)
Right:
    text ~ lm("gpt2", prompt=prompt, max_tokens=40)
""",
    ),
    "LMP110": Explanation(
        "an argument given twice",
        """\
The same argument is given by its place and by its name, or twice by its name.

Wrong:
    never(text, ["a"], words=["b"])
Right:
    never(text, words=["a", "b"])
""",
    ),
    "LMP111": Explanation(
        "a name used as what it is not",
        """\
A function stands where a value is wanted, a value is called like a function, or a dot follows
something that is not an imported file.

Wrong:
    factor sentiment
Right:
    factor sentiment(text)
""",
    ),
    "LMP112": Explanation(
        "a distribution in the wrong place",
        """\
What stands after `~` is a distribution; a distribution stands nowhere else, because it has no
value until it is drawn from.

Wrong:
    let topic = categorical(["a", "b"])
Right:
    topic ~ categorical(["a", "b"])
""",
    ),
    "LMP113": Explanation(
        "bounds that are none",
        """\
A bound is a constant number, and the lower one is at most the upper one.

Wrong:
    reward r(t: string): real<lower=5, upper=0> = vader()
Right:
    reward r(t: string): real<lower=-5, upper=5> = vader()
""",
    ),
    "LMP114": Explanation(
        "something that must be constant",
        """\
Defaults, options of `infer`, the arguments of reward sources and everything outside the model are
known when the file is read.

Wrong:
    model m(a: int, b: int = a) { … }
Right:
    model m(a: int, b: int = 3) { … }
""",
    ),
    "LMP115": Explanation(
        "an option with an unknown value",
        """\
The argument takes one of a few words.

Wrong:
    require length(text, unit="word") <= 20
Right:
    require length(text, unit="words") <= 20
""",
    ),
    "LMP116": Explanation(
        "a value used before it has one",
        """\
Statements run from top to bottom: a choice or a `let` can be used below the line that gives it its
value, not above.

Wrong:
    text ~ lm("gpt2", prompt=f"About {topic}:", max_tokens=20)
    topic ~ categorical(["a", "b"])
Right:
    topic ~ categorical(["a", "b"])
    text ~ lm("gpt2", prompt=f"About {topic}:", max_tokens=20)
""",
    ),
    "LMP117": Explanation(
        "an index outside its array",
        """\
Elements are counted from 0, so the last of three is number 2.

Wrong:
    let last = ["a", "b", "c"][3]
Right:
    let last = ["a", "b", "c"][2]
""",
    ),
    "LMP118": Explanation(
        "imports in a circle",
        """\
A file that is being imported imports itself again, perhaps through others; or more than 50 files
import each other in a chain. Put what both need into a third file.
""",
    ),
    "LMP119": Explanation(
        "a file that cannot be read",
        """\
A file that the program names does not exist, is not UTF-8 text, or does not hold what its format
says. Paths are relative to the file that they are written in.

Wrong:
    let words = file("word.txt", format="lines")
Right:
    let words = file("words.txt", format="lines")
""",
    ),
    "LMP130": Explanation(
        "a parameter without a value",
        """\
A parameter that has no default must be given when the model is used.

Wrong:
    lmppl.infer(model)
Right:
    lmppl.infer(model(prompt="The dog"))
""",
    ),
    "LMP131": Explanation(
        "an unknown parameter or extern",
        """\
A value was given for a name that the model does not have.

Wrong:
    model(promt="The dog")
Right:
    model(prompt="The dog")
""",
    ),
    "LMP132": Explanation(
        "a value of the wrong type",
        """\
What was given for a parameter has another type than the file declares. An int may be given for a
real; a list or a tuple for an array. A scalar of NumPy and a torch tensor of no dimension stand for
the Python value that they hold; for an array, give `array.tolist()`.

Wrong:
    model(beta="0.1")
Right:
    model(beta=0.1)
""",
    ),
    "LMP133": Explanation(
        "an extern that was not given",
        """\
`extern` declares what the host program brings: a file alone can never run host code. Each extern
that is used is given by its name.

Right:
    model(quality=lambda texts: [len(text) for text in texts])
""",
    ),
    "LMP134": Explanation(
        "an extern that is not what it should be",
        """\
An extern reward or function is something that can be called; an extern language model keeps the
protocol of `lmppl.lm`, as `lmppl.FunctionLM` does.
""",
    ),
    "LMP135": Explanation(
        "a file outside the folder of the program",
        """\
A program reads files in its own folder only (that of the file; `base_dir` for a text), links and
`..` followed to where they lead: otherwise a program of somebody else could read whatever you can.
Move the file there, or allow its folder: `lmppl run --allow-path DIR FILE`, or
`lmppl.load(path, allow=[dir])`. Directories of models may lie anywhere, and so may what you name
yourself on the command line.

Wrong:
    let words = file("../shared/words.txt", format="lines")
Right:
    let words = file("words.txt", format="lines")
""",
    ),
    "LMP136": Explanation(
        "no plain file, or too large a one",
        """\
What a program reads is a file on disk of at most 256 MiB, and what it imports one of at most 4 MiB:
a pipe or a device may never end, and a directory has no text.
""",
    ),
    "LMP137": Explanation(
        "a character that reorders what is read",
        """\
A warning. The program holds a bidirectional control: editors show such a line in another order than
it has, so that what you read may not be what runs (Trojan Source, arXiv:2111.00169). Take it out;
in a string write it as an escape, `\\u202e`.
""",
    ),
    # ---- 2xx: meaning ----
    "LMP201": Explanation(
        "a reward or extern that is never used",
        """\
A warning. The declaration changes nothing, which may mean that a factor was forgotten.
""",
    ),
    "LMP202": Explanation(
        "a parameter that is never used",
        """\
A warning. Whatever is given for it, the posterior is the same. `# lmp: allow LMP202` on the line
keeps it quiet.
""",
    ),
    "LMP203": Explanation(
        "a choice that nothing depends on",
        """\
A warning. It is drawn, costs time, and is neither used nor returned.
""",
    ),
    "LMP204": Explanation(
        "a value or an import that is never used",
        """\
A warning. A `let` or an import that nothing mentions.
""",
    ),
    "LMP205": Explanation(
        "an operation without a value",
        """\
A division by zero, a logarithm of a negative number, or a result that is too large for a number.
""",
    ),
    "LMP206": Explanation(
        "a temperature that is not above 0",
        """\
`factor r / beta` is the evidence exp(r / beta): at 0 it has no value, and below 0 it favours what
the reward dislikes. The default, and any value given later, must be above 0. To turn a reward
around, write a minus.

Wrong:
    model m(beta: real = 0) { … factor sentiment(text) / beta }
Right:
    model m(beta: real<lower=0> = 0.5) { … factor -sentiment(text) / beta }
""",
    ),
    "LMP207": Explanation(
        "a comparison with a value that cannot be",
        """\
A warning. A choice is compared with something that is none of its values, so the comparison always
comes out the same; usually one of the two is misspelt.
""",
    ),
    "LMP209": Explanation(
        "a factor that is the same for every draw",
        """\
A warning. No choice stands in it, so it multiplies the evidence by a constant and changes no draw.
""",
    ),
    "LMP210": Explanation(
        "uncertain where a number is wanted",
        """\
An uncertain reward is a distribution, and a factor needs a number. How to treat the uncertainty is
a decision, so it is never averaged silently: name a risk rule such as `mean`, `lcb`, `worst`,
`quantile`, `cvar`, `entropic` or `preferred`.

Wrong:
    factor helpful(text) / beta
Right:
    factor lcb(helpful(text), k=1) / beta
""",
    ),
    "LMP211": Explanation(
        "a condition in a factor",
        """\
A factor is a number in nats. A condition is demanded with `require`, or favoured by so many nats
with an `if`.

Wrong:
    factor never(text, ["x"])
Right:
    require never(text, ["x"])
""",
    ),
    "LMP212": Explanation(
        "a number in a requirement",
        """\
A requirement is true or false. Compare the number, or make it a factor.

Wrong:
    require sentiment(text)
Right:
    require sentiment(text) >= 0
""",
    ),
    "LMP213": Explanation(
        "a latent choice that picks a reward",
        """\
A choice that only picks which reward counts is weighted by that reward too, so the posterior
favours whichever reward is the most optimistic about each text: the opposite of caution. Make the
rewards members of one ensemble and name a risk rule.

Wrong:
    i ~ categorical([0, 1])
    factor [a(text), b(text)][i]
Right:
    reward both(t: string): uncertain = ensemble([reward_model("a"), reward_model("b")])
    factor lcb(both(text), k=1)
""",
    ),
    "LMP214": Explanation(
        "a latent choice that is observed",
        """\
What the model draws is unknown, and what is observed is known: nothing is both. Observe a parameter
or a constant.
""",
    ),
    "LMP215": Explanation(
        "a risk rule for something certain",
        """\
Risk rules read the distribution of an uncertain reward. A number has none.

Wrong:
    factor mean(sentiment(text))
Right:
    factor sentiment(text)
""",
    ),
    "LMP216": Explanation(
        "a claim of an unknown form",
        """\
`expect` compares one statistic of the posterior, `mean`, `std`, `probability` or `quantile`, with a
bound that is known beforehand. Statistics of the posterior stand nowhere else.

Wrong:
    expect sentiment(text) > 0.5
Right:
    expect mean(sentiment(text)) > 0.5
""",
    ),
    "LMP217": Explanation(
        "a declared range that is too narrow",
        """\
The source is known to give values outside the range that the reward declares. Rejection and exact
inference rely on declared ranges, so a wrong one would give wrong draws.

Wrong:
    reward sentiment(t: string): real<lower=0, upper=1> = vader()
Right:
    reward sentiment(t: string): real<lower=-1, upper=1> = vader()
""",
    ),
    "LMP218": Explanation(
        "a reward that does not fit its source",
        """\
A reward is a number or uncertain; only an `ensemble` (or host code) gives an uncertain one. Sources
read one string, classifiers and reward models also two (a question and an answer).

Wrong:
    reward helpful(t: string): real = ensemble([reward_model("a"), reward_model("b")])
Right:
    reward helpful(t: string): uncertain = ensemble([reward_model("a"), reward_model("b")])
""",
    ),
    "LMP219": Explanation(
        "an argument that depends on a choice",
        """\
Which model, how many tokens, which words: these are known before anything is drawn, because tables
and memory are laid out for them. Prompts and probabilities may depend on earlier choices.
""",
    ),
    "LMP220": Explanation(
        "a file without a model",
        """\
A file that is run has exactly one `model`. Files that are only imported need none.
""",
    ),
    "LMP221": Explanation(
        "a file with several models",
        """\
A file that is run has exactly one `model`. Put each into a file of its own, and what they share
into a third that both import.
""",
    ),
    "LMP222": Explanation(
        "infer lines that cannot be told apart",
        """\
One `infer` may be without a name: the default. The others are named, each differently.

Wrong:
    infer smc()
    infer mcmc()
Right:
    infer smc()
    infer mcmc() as chains
""",
    ),
    "LMP223": Explanation(
        "a model that draws nothing",
        """\
Without a choice there is nothing to infer.

Right:
    text ~ lm("builtin:stories", prompt=prompt, max_tokens=40)
""",
    ),
    "LMP224": Explanation(
        "a second return",
        """\
A model returns once; name everything in one line: `return a, b`.
""",
    ),
    "LMP225": Explanation(
        "values and probabilities that do not fit",
        """\
The values of a `categorical` differ, there is a probability for each, none is negative, and they
add up to 1.

Wrong:
    topic ~ categorical(["a", "b"], probs=[0.5, 0.6])
Right:
    topic ~ categorical(["a", "b"], probs=[0.5, 0.5])
""",
    ),
    "LMP226": Explanation(
        "the text of a choice is wanted",
        """\
How many tokens a text has and whether it finished are known only for the text of a choice itself,
not for a string that was put together.

Wrong:
    require finished("The end.")
Right:
    require finished(text)
""",
    ),
    "LMP230": Explanation(
        "no meaning yet",
        """\
The language has this, and this version cannot do it. It is refused, because ignoring it would
change the posterior without a word.
""",
    ),
    "LMP231": Explanation(
        "a label used twice",
        """\
Labels name terms in results and messages, so no two terms of a model share one.
""",
    ),
    "LMP232": Explanation(
        "no such built-in model",
        """\
`builtin:` begins the name of a language model that comes with lmppl; `lmppl models` lists them.

Wrong:
    text ~ lm("builtin:storys", prompt="Once", max_tokens=40)
Right:
    text ~ lm("builtin:stories", prompt="Once", max_tokens=40)
""",
    ),
    "LMP233": Explanation(
        "no such directory",
        """\
A warning. The name of a model is a path, or almost that of a directory which exists, and there is
no directory of that name. What is no path is then taken for an id on the Hugging Face hub.

Wrong:
    text ~ lm("modles/tiny", prompt="Once", max_tokens=40)
Right:
    text ~ lm("models/tiny", prompt="Once", max_tokens=40)
""",
    ),
    # ---- 3xx: constraints ----
    "LMP301": Explanation(
        "a pattern that is not regular",
        """\
`matches` follows a text token by token, which a finite automaton must be able to do: no
backreferences, lookarounds, atomic groups or possessive repeats, and not too many states.

Wrong:
    require matches(text, r"(a+)b\\1")
Right:
    require matches(text, r"a{1,5}ba{1,5}")
""",
    ),
    "LMP302": Explanation(
        "a constraint that nothing satisfies",
        """\
No text at all meets the requirement, so the posterior would have zero mass.

Wrong:
    require length(text, unit="words") < 0
Right:
    require length(text, unit="words") < 10
""",
    ),
    "LMP303": Explanation(
        "constraints that contradict each other",
        """\
Each can be met, but not together, so the posterior would have zero mass. Stop strings count: a text
ends before its first stop string and never contains one.

Wrong:
    require matches(text, r"[A-Z][a-z ]*\\.")
    require never(text, ["."])
""",
    ),
    "LMP304": Explanation(
        "a constraint that requires nothing",
        """\
A warning. Every text meets it.
""",
    ),
    "LMP305": Explanation(
        "a constraint that cannot be met in max_tokens, or by the vocabulary",
        """\
The text would have to be longer than its budget of tokens, or its language model cannot write it:
no token has the character, or nothing ends a text in time. What only the vocabulary tells is said
when the language model is loaded, before anything is drawn. More particles or attempts cannot help.

Wrong:
    text ~ lm("gpt2", prompt=prompt, max_tokens=10)
    require length(text) >= 20
""",
    ),
    "LMP310": Explanation(
        "a requirement that is judged on finished texts only",
        """\
A warning. Conditions on words, patterns, lengths, counts and equality, joined by `and`, `or`, `not`
and `if`, are followed by automata: no token is drawn after which they cannot be met any more. This
one asks for more, so that draws which break it are thrown away when they are complete. The
posterior is the same; where few texts meet the condition, few draws are left.

Wrong:
    reward n(t: string): int = count("(!|$)")
    require n(text) >= 3
Right:
    reward n(t: string): int = count("!")
    require n(text) >= 3
""",
    ),
    "LMP311": Explanation(
        "answers of unequal lengths that only an end token ends",
        """\
A warning. A text is complete when the model draws its end token, or at `max_tokens`. Of a few
answers of unequal lengths the shorter must be followed by the end token, and the posterior weighs
how likely that is: a model that rarely ends there gives nearly everything to the answer that needs
no end token. That is the meaning of the program and mostly not what was meant.

Wrong:
    feeling ~ lm("builtin:stories", prompt="The dog was", max_tokens=4)
    require matches(feeling, r" (happy|sad|scared)")
Right:
    feeling ~ lm("builtin:stories", prompt="The dog was", max_tokens=4)
    require starts_with(feeling, [" happy", " sad", " scared"])
""",
    ),
    # ---- 4xx: inference ----
    "LMP401": Explanation(
        "there is no such inference method",
        """\
`infer` and `method=` take the name of a method: exact, rejection, importance, smc, mcmc or svi.
`lmppl methods` lists them with their options.

Wrong:
    infer svvi(num_steps=10)
Right:
    infer svi(num_steps=10)
""",
    ),
    "LMP402": Explanation(
        "an option that the method does not have",
        """\
Every option belongs to one method; when the method changes, only the seed and the number of draws
are carried over. The help names the nearest option, or the methods that have one of this name.

Wrong:
    infer smc(particles=64)
Right:
    infer smc(num_particles=64)
""",
    ),
    "LMP403": Explanation(
        "an option with a value it cannot have",
        """\
The value is of the wrong kind or outside its range; the help says what the option means.

Wrong:
    infer smc(ess_threshold=1.5)
Right:
    infer smc(ess_threshold=0.5)
""",
    ),
    "LMP404": Explanation(
        "no infer line of that name",
        """\
`--infer NAME` and `infer="NAME"` pick an `infer` line of the file by the name after `as`, or by its
method where it has no name.
""",
    ),
    "LMP405": Explanation(
        "not a budget",
        """\
A budget is a number of seconds above 0, or has a unit: "90s", "2min", "1h", "100000 tokens".
""",
    ),
    "LMP410": Explanation(
        "rejection without an upper bound",
        """\
Rejection keeps a draw with probability exp(factors - bound), so it needs a bound that no draw can
exceed. The bound is computed from the declared ranges of rewards and the values of parameters. A
factor whose range has no upper end leaves nothing to compute it from. Guessing one would bias the
draws silently.

Wrong:
    reward score(t: string): real = lexicon("words.tsv")
Right:
    reward score(t: string): real<lower=-10, upper=10> = lexicon("words.tsv")
""",
    ),
    "LMP411": Explanation(
        "a zero that svi cannot avoid",
        """\
The reverse KL divergence is infinite as soon as the guide gives mass to a text where the posterior
has none. Constraints that can be read from the prefix are masked out of the guide; this one cannot
be, so no guide of this kind has a finite divergence. Use smc, mcmc or rejection, or turn the
requirement into a factor.
""",
    ),
    "LMP414": Explanation(
        "smc with nothing to look at before the end",
        """\
A warning. No constraint can be read from a prefix and no factor is scored on unfinished texts, so
particles are never weighed before they are complete: the run is importance sampling under another
name. Its answer is right all the same.
""",
    ),
    "LMP415": Explanation(
        "mcmc with a weight that changes when revisited",
        """\
Metropolis-Hastings compares the weight of the old state with that of the new one. If evaluating the
same text again gives another number, the chain has another stationary distribution than the
posterior, and no rule that corrects this (pseudo-marginal MCMC) was given.
""",
    ),
    "LMP416": Explanation(
        "too many executions to enumerate",
        """\
The exact method visits every execution that the constraints leave open, and there are more than
`max_sequences`. Fewer tokens, a smaller vocabulary, `top_k` or a constraint that prunes early make
it fit; otherwise use smc.
""",
    ),
    "LMP418": Explanation(
        "the exponential of a noisy estimate",
        """\
The exponential of an unbiased estimate is not an unbiased estimate of the exponential: the
posterior would be tilted towards texts whose scores vary most.
""",
    ),
    # ---- 5xx: reproducibility ----
    "LMP501": Explanation(
        "no revision pinned",
        """\
A warning. What a hub id stands for can change, and the posterior with it. Pin a commit with
`revision="…"`, or use a local directory.
""",
    ),
    # ---- 6xx: pedantic ----
    "LMP601": Explanation(
        "an infer without a seed",
        """\
Pedantic. Another run gives other draws; `seed=0` makes it repeatable.
""",
    ),
    "LMP602": Explanation(
        "a temperature that may be negative",
        """\
Pedantic. A parameter divides in a factor and its declared range includes negative numbers; values
that are not above 0 are refused when they are given. `real<lower=0>` says so in the file.
""",
    ),
    "LMP603": Explanation(
        "a very large factor",
        """\
Pedantic. More than 20 nats multiply a weight by more than 500 million: a few draws will carry all
the weight. A larger temperature may be meant.
""",
    ),
    "LMP604": Explanation(
        "a factor without an upper bound",
        """\
Pedantic. A reward without declared bounds keeps rejection from running, and the evidence may not be
finite.
""",
    ),
    "LMP605": Explanation(
        "a text of one token",
        """\
Pedantic. `max_tokens=1` is legal and seldom meant.
""",
    ),
    "LMP901": Explanation(
        "no probability is left",
        """\
Every particle, attempt or draw was ruled out. The notes say which requirement rules out how many
draws of the prior, and the error stands at the one that rules out most. Either the posterior is
empty, or it is so rare that this many attempts do not find it.
""",
    ),
    "LMP904": Explanation(
        "a weight above rejection's bound",
        """\
A draw weighed more than the bound that the declared ranges gave, so what had been accepted was not
distributed as the posterior, and the run stopped. A reward returned more than it declares.
""",
    ),
    "LMP905": Explanation(
        "rejection that accepted nothing",
        """\
The draws of the prior met the constraints, but none was kept: the bound that the declared ranges
give is far above what draws reach, or there were too few attempts. Tighter ranges, more attempts or
smc help.
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
`trust_remote_code=True`, after somebody has read it. A directory is read as the data of one model:
links and shards that lead out of it, pipes, pickles and adapters of another model are refused.
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
none: the model was not trained on chats. Or its template fails, for some because it takes no system
message. Use an instruction-tuned model, or write the prompt as a string in whatever form the model
knows.
""",
    ),
    "LMP914": Explanation(
        "a tokenizer that is no map from tokens to bytes",
        """\
Constraints, stop strings and the text of a draw are defined on the bytes that each token adds. That
is possible for byte-level tokenizers (GPT-2, Llama 3, Qwen) and for SentencePiece-style ones
(Llama 2, Gemma, Mistral). It is not for tokenizers that guess the spaces between tokens, clean up
the text afterwards, or keep no tokenizer.json. It is checked at loading against the tokenizer's own
decoding. Nor may two tokens share a number, or tokens have numbers that the model does not have:
such a tokenizer belongs to another model.
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
takes one, but only of characters or words that its corpus has. A model whose tokenizer was extended
after it was trained takes prompts, but not the tokens that it never had.
""",
    ),
    "LMP919": Explanation(
        "a reward that cannot be loaded",
        """\
The file or model behind a declared reward is missing, broken or of another kind. A lexicon is JSON
`{"word": score}` or lines `word<TAB>score`; a classifier or reward model is a directory written by
`save_pretrained`, or a hub id, and must have a trained classification head: a plain language model
has none, and one drawn at random would score noise. An extern reward must be given by the host.

Wrong:
    reward helpful(t: string): real = reward_model("gpt2")
Right:
    reward helpful(t: string): real = reward_model("acme/rm-1", revision="3f2a91c")
""",
    ),
    "LMP920": Explanation(
        "arithmetic without a result",
        """\
On some draw an expression has no value: a division by zero, the logarithm of a negative number, a
result that is NaN or too large. The notes show what the names stood for on that draw. log(0) is
minus infinity, which is legal in a factor: that draw has no mass. Only the branch that a row takes
is evaluated, so a conditional keeps the others safe. In an `expect` line this stops nothing: the
claim is undecided, and says why.

Wrong:
    factor 1 / length(text)
Right:
    factor if length(text) > 0 then 1 / length(text) else 0
""",
    ),
    "LMP921": Explanation(
        "a score that is NaN or infinite",
        """\
A reward or a factor gave NaN or plus infinity for the text in the note, so there is no posterior to
sample from. Minus infinity is legal where the declared range has no lower end: that text has no
mass. The members, means and stds of an uncertain reward are always finite.

Wrong:
    lambda texts: [math.log(len(t)) / 0.0 for t in texts]
Right:
    lambda texts: [math.log1p(len(t)) for t in texts]
""",
    ),
    "LMP922": Explanation(
        "a score outside its declared range",
        """\
The range of a reward carries to the factors that use it; rejection sampling accepts with a bound
that rests on it, and the wrong bound would give wrong draws. So a score outside is an error and is
never clipped, save for rounding (a millionth of the bound). Every member of an ensemble, and the
mean of a Gaussian, has to lie inside.

Wrong:
    extern reward stars(t: string): real<lower=0, upper=1>      # but it gives 0 to 5
Right:
    extern reward stars(t: string): real<lower=0, upper=5>
""",
    ),
    "LMP923": Explanation(
        "what the host returned does not fit the declaration",
        """\
A reward returns one number for each text of the batch, in the same order: a list, an array or a
tensor. An uncertain one returns an array [batch, members], or a tuple (mean, std) of two [batch]. A
function of one text is fine too when its parameter is annotated `str`. An extern function returns
one value of its declared type.

Wrong:
    model(quality=lambda texts: sum(len(t) for t in texts) * [1.0])
Right:
    model(quality=lambda texts: [len(t) / 10 for t in texts])
""",
    ),
    "LMP924": Explanation(
        "a function of the host raised",
        """\
The Python function behind an extern raised an exception, which is shown below this error. The note
says with which arguments; for a batch they are found by trying its texts one by one. Texts may be
empty, cut off in the middle, or strange, and lookahead scores unfinished ones.

Wrong:
    def quality(text: str) -> float: return text.count("!") / len(text)
Right:
    def quality(text: str) -> float: return text.count("!") / max(len(text), 1)
""",
    ),
    "LMP925": Explanation(
        "probabilities that are none",
        """\
The probabilities of a `categorical` must be as many as its values, none negative, and sum to one.
""",
    ),
    "LMP926": Explanation(
        "bindings that disagree on the shape of the program",
        """\
Several bindings of a program are inferred in one batch, which needs the same language model,
max_tokens, temperature, top_k, top_p, stop strings and discrete values in all of them,
and the same host functions and language models.
""",
    ),
    "LMP927": Explanation(
        "a risk rule that cannot be applied",
        """\
The argument of a risk rule is outside its domain: `quantile` needs 0 < q < 1, `cvar` needs
0 < alpha <= 1, the others a finite number. `worst` needs an ensemble, because a Gaussian has no
smallest value. The two branches of a conditional can only be joined when both are Gaussian, or
ensembles of one size.

Wrong:
    factor worst(h)            # h comes from a host that returns (mean, std)
Right:
    factor quantile(h, q=0.05)
""",
    ),
    "LMP928": Explanation(
        "no such element in the array",
        """\
An index is negative or not below the length of the array; elements are counted from 0.

Wrong:
    let last = topics[3]       # of three topics
Right:
    let last = topics[2]
""",
    ),
    "LMP929": Explanation(
        "a text that the reward model cannot read",
        """\
The text, with the special tokens around it, is longer than the classifier or reward model reads, or
it is empty and the tokenizer has no token to stand for nothing. A score of a part would be a score
of another text, so nothing is cut off unless you ask: `truncate=true` keeps the beginning.

Wrong:
    reward kind(t: string): real = classifier("acme/kind")       # reads 512 tokens
Right:
    reward kind(t: string): real = classifier("acme/kind", truncate=true)
""",
    ),
    "LMP930": Explanation(
        "stopped before there was anything to return",
        """\
The run was interrupted, or its budget was spent, before the first draws were complete. Unfinished
texts and chains in their warmup are not draws of the posterior and are not returned. All methods
but `mcmc` and `svi` hurry to an end, and give up where even the fewest draws do not fit in twice
the budget. The note says how far the run was.
""",
    ),
    "LMP931": Explanation(
        "a prompt that is no text",
        """\
A prompt has a lone surrogate, half of a character that UTF-8 cannot write, so that no tokenizer
reads it. It mostly comes from bytes in another encoding than UTF-8, which Python carries in this
way in arguments and file names: decode them, or convert the file that they come from.
""",
    ),
    "LMP940": Explanation(
        "weights that are not those of the model",
        """\
The weight files of a directory and its config.json disagree: a tensor is missing (another number of
layers, a file that was cut or left out), one is there for which the model has no place, shapes do
not fit, a weight is NaN, infinite, no floating-point number or there twice, or the forward pass
fails. What is missing would be drawn at random, and every number after it would be noise; so the
notes name the tensors, and nothing is run. Weights that are tied to
others need not be in the file. Save the directory again with `model.save_pretrained`.
""",
    ),
    "LMP941": Explanation(
        "an end token outside the vocabulary",
        """\
The `eos_token_id` of config.json, of generation_config.json or of the tokenizer is not the number
of any token that the model can draw, or a stop string spells such a token. Texts would run on past
where they should end, and the prior would be another one than was trained. Correct the number.
""",
    ),
    "LMP942": Explanation(
        "the spelling of a special token, looked for in a text",
        """\
A special token (the end of a turn, padding, …) adds nothing to the text that is drawn, so that what
looks for its spelling never sees it: `never` would forbid nothing, `count` would be 0, and
`contains` would ask for its characters one by one. That is an error wherever it stands, in a
requirement, a factor, an `expect` or what is returned. As a stop string the spelling means the
token: the text ends where it is drawn; a longer stop string with the spelling in it would end
nothing, and is an error too. This is said when the language model is loaded, before anything is
drawn.

Wrong:
    require never(text, "<|turn|>")
Right:
    text ~ lm("acme/chat", prompt=prompt, stop=["<|turn|>"], max_tokens=40)
""",
    ),
    "LMP932": Explanation(
        "no such device",
        """\
`device` names a torch device, as cpu, cuda or cuda:1. Either torch does not know the name, or this
machine or this build of torch has no such device.
""",
    ),
    "LMP960": Explanation(
        "a saved posterior that is damaged",
        """\
A saved posterior is a directory whose `posterior.json` holds the digests of all its files, and its
own. One of them is another than it was: the file was cut short, changed, or belongs to another
result. Weights of another run would be a posterior of nothing, so nothing is loaded.
""",
    ),
    "LMP961": Explanation(
        "a saved posterior in an unknown format",
        """\
The `posterior.json` in this directory was written by a later version of lmppl, or by another
program.
""",
    ),
    "LMP962": Explanation(
        "a saved posterior whose program has changed",
        """\
A saved posterior has the source of its program and the digests of what it read: imports, word
lists, tables, models. An expression that is evaluated on it, or its guide, needs them again, and
they are not there or not the same. What was saved (texts, choices, weights, every factor's value)
can be read all the same.

Right:
    lmppl.load_posterior("result", base_dir="where/the/files/are")
""",
    ),
    "LMP963": Explanation(
        "a saved posterior that needs its host",
        """\
The expression calls a reward or a function of the host program, or the guide needs one. Python
functions are not saved with a posterior; they are given when it is loaded.

Wrong:
    lmppl.load_posterior("result").expectation("quality(text)")
Right:
    lmppl.load_posterior("result", externs={"quality": quality}).expectation("quality(text)")
""",
    ),
    "LMP950": Explanation(
        "a host function that changes what it is given",
        """\
A reward of the host gets a list of texts and returns a score for each, in the same order. One that
sorts, shuffles or empties that list gives scores that may belong to other texts.

Wrong:
    def score(texts): texts.sort(); return [len(t) for t in texts]
Right:
    def score(texts): return [len(t) for t in texts]
""",
    ),
    "LMP951": Explanation(
        "a reward or language model that is no function",
        """\
A few of the first texts of a run are scored again, twice, in a batch of their own and in another
order. Here the score was another one: the reward, function or language model is random, remembers
what it was asked before, or ranks, sorts or centres what is in its batch. Then there is no one
posterior, and a method that promises exact draws refuses. The others go on with the score
that came first and warn.

Wrong:
    lambda texts: [random.random() for t in texts]
Right:
    lambda texts: [random.Random(t).random() for t in texts]
""",
    ),
    "LMP952": Explanation(
        "factors that add up to more than a number holds",
        """\
Each factor of a draw is a finite number, and their sum is not: it is beyond about 1.8e308. Factors
are natural logarithms of weights, in nats; a difference of 100 is already certainty.

Wrong:
    factor 1e308 * sentiment(text)
    factor 1e308 * sentiment(text)
Right:
    factor 10 * sentiment(text)
""",
    ),
    "LMP985": Explanation(
        "a language model whose probabilities are not numbers",
        """\
The forward pass of a language model gave NaN for the next token, most often because half precision
overflowed on some text. NaN is no probability of zero: texts would be dropped that the model may
well give, and the posterior would be another one. Load the model in float32 or bfloat16.
""",
    ),
}
