"""Files of completions, as those who ask people or models keep them: NAME.jsonl, an object a line, all lines of one kind:

  {"prompt": P, "completion": C}                           a demonstration
  {"prompt": P, "completion": C, "label": true}            a sign: whether a completion is good, by itself
  {"prompt": P, "chosen": C, "rejected": C}                a pair
  {"prompt": P, "completions": [C, ...], "ranks": [0, ...]}      a ranking: 0 is the best, equal ranks are a tie
  {"prompt": P, "completions": [C, ...], "rewards": [1.0, ...]}  what each was paid, by whomever

P and C are lists of token ids, or strings: in the signs of an environment that has an `encode` (text) -> tokens, and elsewhere
UTF-8, byte b as token b + 2. What else stands in a line is not looked at, null is nothing, empty lines do not count.

What each completion is read as being paid is 1 for the best and good, 1 - rank in general, so 0 for the rejected and the bad.
Prompts are padded before, completions get their END where there is room for it.
"""

import difflib
import itertools
import json
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rljax.completions import Completions
from rljax.data.texts import BYTES, Bytes
from rljax.errors import UserError
from rljax.tokens import END, NUM_SPECIAL, PAD, mask
from rljax.types import EnvSpec

KINDS = {  # what a line has beside its prompt
    "demonstration": ("completion",),
    "sign": ("completion", "label"),
    "pair": ("chosen", "rejected"),
    "ranking": ("completions", "ranks"),
    "group": ("completions", "rewards"),
}
SUFFIX = ".jsonl"
LARGEST = float(np.finfo(np.float32).max)
ENTRIES = sorted({entry for entries in KINDS.values() for entry in entries})
Encode = Callable[[str], list[int]]


class Line(NamedTuple):
    """What was read of one line."""

    where: str  # for what is to be said of it
    kind: str
    prompt: list[int]
    completions: list[list[int]]
    rewards: list[float]


def load(paths: Iterable[str | pathlib.Path], spec: EnvSpec, encode: Encode | None = None) -> Completions:
    """The lines of one file after another: `Completions` [N, K] without a `log_prob`, since nobody knows who wrote them.

    Args:
      spec: of an environment of tokens, that all must fit.
      encode: the tokens of a text; None: its bytes.
    Raises:
      UserError: there is no such file, a line is not what it should be or does not fit `spec`, or lines are of several kinds or
        of unequally many completions.
    """
    lines = [line for path in paths for line in _lines(pathlib.Path(path), spec, encode)]
    first = lines[0]
    for line in lines:
        if line.kind != first.kind:
            raise UserError(
                f"{line.where} is a {line.kind}, but {first.where} is a {first.kind}: give one kind at a time."
            )
        if len(line.completions) != len(first.completions):
            raise UserError(
                f"{line.where} has {len(line.completions)} completions, but {first.where} has {len(first.completions)}: all "
                "must have equally many."
            )
    prompt = np.full((len(lines), *spec.observation_shape), PAD, np.int32)
    tokens = np.full((len(lines), len(first.completions), spec.action.length), PAD, np.int32)
    for i, line in enumerate(lines):
        prompt[i, -len(line.prompt) :] = line.prompt
        for j, completion in enumerate(line.completions):
            tokens[i, j, : len(completion)] = completion
    reward = np.array([line.rewards for line in lines], np.float32)
    return Completions(jnp.asarray(prompt), jnp.asarray(tokens), None, jnp.asarray(reward))


def save(path: str | pathlib.Path, data: Completions) -> None:
    """Write groups with their rewards, as token ids; single completions that were all paid 1 as demonstrations."""
    prompt, tokens, reward = (np.asarray(x) for x in (data.prompt, data.tokens, data.reward))
    written = lambda row: row[row != PAD].tolist()
    shown = tokens.shape[1] == 1 and (reward == 1.0).all()
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for i in range(len(prompt)):
            group = [written(row) for row in tokens[i]]
            told = (
                {"completion": group[0]}
                if shown
                else {"completions": group, "rewards": [float(str(x)) for x in reward[i]]}
            )
            file.write(json.dumps({"prompt": written(prompt[i]), **told}) + "\n")


def describe(data: Completions) -> dict[str, Any]:
    """How much there is, what it was paid, and how many groups are decided: not all of them paid the same; of single
    completions how many are good."""
    reward, length = np.asarray(data.reward), np.asarray(mask(data.tokens)).sum(axis=-1)
    decided, alone = (reward != reward[:, :1]).any(axis=1), reward.shape[1] == 1
    quartiles = lambda x: [float(q) for q in np.quantile(x, [0.0, 0.25, 0.5, 0.75, 1.0])]
    return {
        "prompts": len(reward),
        "completions": reward.shape[1],
        **({"good": float((reward > 0.5).mean())} if alone else {"decided": float(decided.mean())}),
        "reward": quartiles(reward),
        "length": quartiles(length),
    }


def _lines(path: pathlib.Path, spec: EnvSpec, encode: Encode | None) -> list[Line]:
    return [_line(found, where, spec, encode) for where, found in objects(path)]


def objects(path: pathlib.Path) -> list[tuple[str, dict[str, Any]]]:
    """The object of each line that is not empty, and where it stands, for what is to be said of it.

    Raises:
      UserError: there is no such file, it is empty or no text, or a line is no object.
    """
    if not path.is_file():
        raise UserError(f"There is no file of completions {path}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8: {error}.") from None
    rows = enumerate(text.split("\n"), start=1)  # other ends of lines may stand inside of a text
    found = [(where := f"{path} line {number}", _object(row, where)) for number, row in rows if row.strip()]
    if not found:
        raise UserError(f"{path} is empty.")
    return found


def _object(row: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(row)
    except json.JSONDecodeError as error:
        hint = "; an object a line is wanted, not one list" if row.lstrip().startswith("[") else ""
        raise UserError(f"{where} is no JSON: {error.msg} at column {error.colno}{hint}.") from None
    except (ValueError, RecursionError):
        raise UserError(f"{where} is no JSON that can be read: its numbers or its nesting are too large.") from None
    if not isinstance(found, dict):
        raise UserError(f'{where} is no object, as in {{"prompt": ..., "chosen": ..., "rejected": ...}}.')
    return found


def _line(found: dict[str, Any], where: str, spec: EnvSpec, encode: Encode | None) -> Line:
    for name in found:
        close = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.8)
        if close and name not in ENTRIES:
            raise UserError(f"{where} has {name!r}, which is not read; nearest: {close[0]}.")
    told = [entry for entry in ("prompt", *ENTRIES) if found.get(entry) is not None]
    kind = next((kind for kind, entries in KINDS.items() if set(told) == {"prompt", *entries}), None)
    if kind is None:
        has = " and ".join(told) or "none of these"
        kinds = "; ".join(" and ".join(entries) for entries in KINDS.values())
        raise UserError(f"{where} must have a prompt and one of: {kinds}. It has {has}.")
    prompt = tokens(found["prompt"], f"{where} has a prompt", spec.action.vocabulary, encode)
    if len(prompt) > spec.observation_shape[0]:
        raise UserError(
            f"{where} has a prompt of {len(prompt)} tokens, but the environment's have {spec.observation_shape[0]} at most."
        )
    if kind == "pair":
        texts, rewards = [found["chosen"], found["rejected"]], [1.0, 0.0]
    elif kind == "demonstration":
        texts, rewards = [found["completion"]], [1.0]
    elif kind == "sign":
        if not isinstance(found["label"], bool):
            raise UserError(f"{where} has the label {found['label']!r}, which must be true or false.")
        texts, rewards = [found["completion"]], [float(found["label"])]
    else:
        texts, rewards = found["completions"], _rewards(found, kind, where)
    completions = [_completion(text, where, spec, encode) for text in texts]
    for (one, paid), (other, paid_too) in itertools.combinations(zip(completions, rewards), 2):
        if kind != "group" and one == other and paid != paid_too:
            raise UserError(f"{where} has one completion twice, as the better and as the worse.")
    return Line(where, kind, prompt, completions, rewards)


def _rewards(found: dict[str, Any], kind: str, where: str) -> list[float]:
    texts, least, name = found["completions"], 2 if kind == "ranking" else 1, KINDS[kind][1]
    numbers = found[name]
    if not isinstance(texts, list) or len(texts) < least:
        raise UserError(f"{where} must have a list of {least} completions or more, not {texts!r}.")
    if not isinstance(numbers, list) or len(numbers) != len(texts):
        raise UserError(f"{where} must have as many {name} as completions, a list of {len(texts)}.")
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= LARGEST:
            raise UserError(f"{where} has {number!r} among its {name}, which must be numbers that float32 holds.")
        if kind == "ranking" and (number < 0 or number != int(number)):
            raise UserError(f"{where} has the rank {number}; ranks are 0 for the best, 1, 2 and so on.")
    if kind == "ranking" and min(numbers) != 0:
        raise UserError(f"{where} has no rank 0, which is the best.")
    return [1.0 - number if kind == "ranking" else float(number) for number in numbers]


def _completion(text: Any, where: str, spec: EnvSpec, encode: Encode | None) -> list[int]:
    found = tokens(text, f"{where} has a completion", spec.action.vocabulary, encode)
    longest = spec.action.length
    if END in found[:-1]:
        raise UserError(f"{where} has a completion that goes on after END.")
    if len(found) > longest:
        raise UserError(
            f"{where} has a completion of {len(found)} tokens, but the environment's have {longest} at most."
        )
    return [*found, END] if found[-1] != END and len(found) < longest else found


def tokens(text: Any, what: str, vocabulary: int, encode: Encode | None = None) -> list[int]:
    """The tokens of a text, or of a list of their ids.

    Raises:
      UserError: it is neither, is empty, or has a token that is none of the vocabulary; `what` begins the sentence.
    """
    if isinstance(text, str) and encode is None and vocabulary < NUM_SPECIAL + BYTES:
        raise UserError(
            f"{what} as a string, whose bytes are {NUM_SPECIAL + BYTES} tokens, but the environment has {vocabulary} and no "
            "`encode`: give lists of token ids."
        )
    try:
        ids = np.asarray((encode or Bytes().encode)(text)).tolist() if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise UserError(f"{what} {text!r}, which is no text.") from None
    except ValueError as error:
        raise UserError(f"{what} {text!r}: {error}") from None
    if not isinstance(ids, list) or any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
        raise UserError(f"{what} that is neither a string nor a list of token ids: {text!r}.")
    if not ids:
        raise UserError(f"{what} that is empty.")
    for token in ids:
        if not END <= token < vocabulary:
            padding = " (it is PAD, which is not written)" if token == PAD else ""
            raise UserError(f"{what} with the token {token}{padding}; tokens are {END} (END) to {vocabulary - 1}.")
    return ids
