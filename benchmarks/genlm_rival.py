"""genlm-control's SMC on the model and the reward of `run.py`; needs only genlm-control.

    PYTHON_WITH_GENLM benchmarks/genlm_rival.py DIRECTORY PROMPT PARTICLES TOKENS

Prints tokens per second of CPU time. The reward is scored when a text ends, as by
`lookahead="none"`. Its target is conditioned on an end within TOKENS; ours counts a text that
reaches the limit as complete. The work per token is the same.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time

import torch
from genlm.control import EOS, Potential, PromptedLLM, direct_token_sampler

VOWEL = re.compile(rb"[aeiou]")


class Vowels(Potential):
    """Number of vowels over 20, on complete texts."""

    async def complete(self, context):
        text = b"".join(getattr(token, "byte_string", token) for token in context)
        return len(VOWEL.findall(text)) / 20.0

    async def prefix(self, context):
        return 0.0


async def run(llm: PromptedLLM, particles: int, tokens: int) -> int:
    critic = Vowels(llm.vocab)
    found = await direct_token_sampler(llm).smc(
        n_particles=particles, ess_threshold=0.0, max_tokens=tokens, critic=critic
    )
    return sum(sum(token is not EOS for token in context) for context in found.contexts)


def main() -> None:
    directory, prompt, particles, tokens = sys.argv[1:]
    torch.set_num_threads(1)
    llm = PromptedLLM.from_name(directory, backend="hf", temperature=1.0)
    llm.set_prompt_from_str(prompt)
    asyncio.run(run(llm, 2, 4))
    began = time.process_time()
    drawn = asyncio.run(run(llm, int(particles), int(tokens)))
    print(drawn / (time.process_time() - began))


if __name__ == "__main__":
    main()
