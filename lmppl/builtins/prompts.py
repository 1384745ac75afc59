"""`chat(user, system)`: a prompt of one turn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmppl.builtins.kinds import PromptMaker
from lmppl.builtins.signature import Argument
from lmppl.ir.types import CHAT as CHAT_TYPE

if TYPE_CHECKING:
    from lmppl.lm.protocol import Chat


def make(user: str, system: str | None = None) -> Chat:
    from lmppl.lm.protocol import Chat

    return Chat(user, system)


CHAT = PromptMaker(
    name="chat",
    arguments=(
        Argument("user", "string", "what the user says"),
        Argument("system", "string", "the system message", required=False, named_only=True),
    ),
    result=CHAT_TYPE,
    doc="A prompt rendered by the tokenizer's chat template.",
    example='text ~ lm("acme/chat", prompt=chat(system="Be brief.", user=question), max_tokens=64)',
    make=make,
)
