"""Two judges of a text, given to a program as an extern reward: python examples/judge.py"""

from pathlib import Path

import numpy as np

import lmppl

HERE = Path(__file__).parent


def quality(texts: list[str]) -> np.ndarray:
    """Two scores in [0, 1] for each text, `[batch, judges]`: variety of words, and plain length."""
    scores = []
    for text in texts:
        words = text.lower().split()
        variety = len(set(words)) / max(1, len(words))
        length = min(1.0, len(text) / 100)
        scores.append([variety, length])
    return np.array(scores)


def main() -> None:
    model = lmppl.load(HERE / "judge.lmp")
    post = lmppl.infer(model(quality=quality))
    print(post.summary())


if __name__ == "__main__":
    main()
