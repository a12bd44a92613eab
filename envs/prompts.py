"""Questions of a file, and their right answers: `prompts/FILE.jsonl?tokenizer=FOLDER&length=32`. A completion ends its episode.

    {"prompt": "What is 40 + 2? ", "answer": "42"}

Both are strings or lists of token ids; what else stands in a line is not looked at. Strings are read by the tokenizer.json of a
Hugging Face folder, whose model agents then begin from (`--config.model=FOLDER`), and elsewhere as UTF-8, byte b as token b + 2.
They are read as they are: a chat's marks, or a mark that begins a text, must stand in the prompt.

    match       what is paid 1: `exact`, the answer and END; `ends`, a completion that ends with it; `contains`, one that has it
    length      tokens that a completion may have; 0: as many as the longest answer and END
    prompt      tokens that a prompt may have; 0: as many as the longest one. Longer ones are refused

Answers are found by their tokens, so `42` is not found where a tokenizer made one token of ` 42`.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from rljax.data import jsonl
from rljax.data import texts as texts_lib
from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import record, static
from rljax.tokens import END, PAD, mask
from rljax.types import EnvSpec, Key, TimeStep, Tokens

MATCHES = ("exact", "ends", "contains")


@record
class Prompts:
    """The state is the right answer, without an END."""

    prompt: Int[Array, "N P"]
    answer: Int[Array, "N A"]
    length: int = static()
    match: str = static()
    texts: texts_lib.Texts = static()

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(self.prompt.shape[1:], Tokens(self.texts.vocabulary, self.length), episode_length=1)

    def example(self, key: Key) -> tuple[Int[Array, " P"], Int[Array, " T"]]:
        """A prompt and its right answer, which ends where there is room for END."""
        answer, prompt = self.reset(key)
        size = mask(answer).sum()
        answer = jnp.pad(answer, (0, max(0, self.length - answer.shape[0])))[: self.length]
        return prompt, jnp.where(jnp.arange(self.length) == size, END, answer)

    def reset(self, key: Key) -> tuple[Int[Array, " A"], Int[Array, " P"]]:
        row = jax.random.randint(key, (), 0, self.prompt.shape[0])
        return self.answer[row], self.prompt[row]

    def asked(self, prompt: Int[Array, " P"]) -> Int[Array, " A"]:
        """The state of an episode with this prompt, one of the file's."""
        return self.answer[(self.prompt == prompt).all(axis=1).argmax()]

    def step(self, state: Int[Array, " A"], action: Int[Array, " T"], key: Key) -> tuple[Int[Array, " A"], TimeStep]:
        del key
        there, size = stands_at(action, state), mask(state).sum()
        end = jnp.where((action == END).any(), (action == END).argmax(), -1)  # of one that was cut off there is none
        if self.match == "contains":
            right = there.any()
        else:
            right = (end >= size) & there[jnp.maximum(end - size, 0)]
            right = right & (end == size) if self.match == "exact" else right
        return state, TimeStep(
            observation=jnp.zeros_like(self.prompt[0]),
            reward=right.astype(jnp.float32),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
        )

    def encode(self, text: str) -> list[int]:
        return self.texts.encode(text)

    def decode(self, tokens: Array) -> str:
        return self.texts.decode(tokens)


def stands_at(action: Int[Array, " T"], answer: Int[Array, " A"]) -> Bool[Array, " T"]:
    """Whether an answer, padded behind, stands in a completion from each of its places on."""
    place = jnp.arange(action.shape[0])[:, None] + jnp.arange(answer.shape[0])
    seen = jnp.where(place < action.shape[0], action[jnp.minimum(place, action.shape[0] - 1)], PAD)
    return ((seen == answer) | (answer == PAD)).all(axis=1)


def prompts(file: str, tokenizer: str = "", length: int = 0, prompt: int = 0, match: str = "exact") -> Prompts:
    """The environment of a file.

    Raises:
      UserError: the file or the tokenizer cannot be read, a line is not what it should be or too long, or there is no such match.
    """
    if match not in MATCHES:
        raise UserError(f"match={match} is none of what is paid; {nearest(match, MATCHES)}")
    if length < 0 or prompt < 0:
        raise UserError(f"length={length} and prompt={prompt} must be numbers of tokens, or 0 for the longest.")
    words = texts_lib.of(tokenizer)
    rows = [(where, _tokens(line, where, words)) for where, line in jsonl.objects(pathlib.Path(file))]
    longest = [max(len(tokens[part]) for _, tokens in rows) for part in (0, 1)]
    room = prompt or longest[0], length - (match != "contains") if length else longest[1]
    for where, tokens in rows:
        for part, name, most in zip(tokens, ("a prompt", "an answer"), room):
            if len(part) > most:
                raise UserError(f"{where} has {name} of {len(part)} tokens, but there is room for {most}.")
    questions = np.full((len(rows), room[0]), PAD, np.int32)
    answers = np.full((len(rows), longest[1]), PAD, np.int32)
    for i, (_, (question, answer)) in enumerate(rows):
        questions[i, room[0] - len(question) :] = question
        answers[i, : len(answer)] = answer
    return Prompts(jnp.asarray(questions), jnp.asarray(answers), length or longest[1] + 1, match, words)


def _tokens(line: dict[str, Any], where: str, words: texts_lib.Texts) -> tuple[list[int], list[int]]:
    """Prompt and answer of a line."""
    for name in ("prompt", "answer"):
        if line.get(name) is None:
            raise UserError(f'{where} has no {name}, as in {{"prompt": "40+2=", "answer": "42"}}.')
    question, answer = (
        jsonl.tokens(line[name], f"{where} has {what}", words.vocabulary, words.encode)
        for name, what in (("prompt", "a prompt"), ("answer", "an answer"))
    )
    if END in answer:
        raise UserError(f"{where} has an answer with an END; completions end behind it by themselves.")
    return question, answer
