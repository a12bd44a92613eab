"""Files of completions: what is read of each kind of line, what is refused, and that what is written is read again."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.completions import Completions
from rljax.data import jsonl
from rljax.errors import UserError
from rljax.types import EnvSpec, Tokens

SORT = envs.make("tokens/sort-2")  # prompts of 3 tokens, completions of 3, 13 tokens
BYTES = EnvSpec((6,), Tokens(258, 5), episode_length=1)


@pytest.fixture
def load(tmp_path):
    def read(*lines, spec=SORT.spec, encode=SORT.encode):
        path = tmp_path / "some.jsonl"
        path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
        return jsonl.load([path], spec, encode)

    return read


def test_demonstrations(load):
    """Texts or ids; END is added where there is room, prompts are padded before."""
    data = load({"prompt": "42=", "completion": "24."}, "", {"prompt": [3, 12], "completion": [3], "more": 1})
    np.testing.assert_array_equal(data.prompt, [[6, 4, 12], [0, 3, 12]])
    np.testing.assert_array_equal(data.tokens, [[[4, 6, 1]], [[3, 1, 0]]])
    np.testing.assert_array_equal(data.reward, [[1.0], [1.0]])
    assert data.log_prob is None and data.prompt.dtype == data.tokens.dtype == jnp.int32


def test_a_completion_without_room_for_its_end_was_cut_off(load):
    data = load({"prompt": "42=", "completion": "246"}, {"prompt": "42=", "completion": [1]})
    np.testing.assert_array_equal(data.tokens[:, 0], [[4, 6, 8], [1, 0, 0]])


def test_pairs_signs_rankings_and_groups(load):
    pair = load({"prompt": "42=", "chosen": "24", "rejected": "42", "label": None})
    np.testing.assert_array_equal(pair.tokens, [[[4, 6, 1], [6, 4, 1]]])
    np.testing.assert_array_equal(pair.reward, [[1.0, 0.0]])
    sign = [{"prompt": "42=", "completion": "24", "label": good} for good in (True, False)]
    np.testing.assert_array_equal(load(*sign).reward, [[1.0], [0.0]])
    ranking = load({"prompt": "42=", "completions": ["42", "24", "2", "4"], "ranks": [1, 0, 2, 1]})
    np.testing.assert_array_equal(ranking.reward, [[0.0, 1.0, -1.0, 0.0]])
    group = load({"prompt": "42=", "completions": ["42", "24", "42"], "rewards": [-0.5, 2, 3.0]})
    np.testing.assert_array_equal(group.reward, [[-0.5, 2.0, 3.0]])
    assert jsonl.describe(ranking) == {
        "prompts": 1,
        "completions": 4,
        "decided": 1.0,
        "reward": [-1.0, -0.25, 0.0, 0.25, 1.0],
        "length": [2.0, 2.0, 2.5, 3.0, 3.0],
    }


def test_texts_of_no_signs_are_bytes(load):
    """Umlauts are two of them; what else ends a line in Unicode may stand in a text."""
    data = load('{"prompt": "aü", "completion": "\u2028b"}\r', spec=BYTES, encode=None)
    np.testing.assert_array_equal(data.prompt, [[0, 0, 0, 99, 0xC3 + 2, 0xBC + 2]])
    np.testing.assert_array_equal(data.tokens, [[[0xE2 + 2, 0x80 + 2, 0xA8 + 2, 100, 1]]])


def test_files_one_after_another_and_written_again(tmp_path, load):
    tokens = jnp.asarray([[[4, 6, 1], [6, 1, 0]], [[1, 0, 0], [7, 7, 7]]], jnp.int32)
    reward = jnp.float32([[1.0, 0.25], [0.0, 0.0]])
    data = Completions(jnp.asarray([[6, 4, 12], [0, 5, 12]], jnp.int32), tokens, jnp.zeros((2, 2, 3)), reward)
    paths = [tmp_path / "new" / "one.jsonl", tmp_path / "two.jsonl"]
    for path in paths:
        jsonl.save(path, data)
    again = jsonl.load(paths, SORT.spec)
    for name in ("prompt", "tokens", "reward"):
        np.testing.assert_array_equal(getattr(again, name), np.tile(getattr(data, name).T, 2).T, err_msg=name)
    jsonl.save(paths[1], Completions(data.prompt, tokens[:, :1], None, jnp.ones((2, 1))))
    assert json.loads(paths[1].read_text().split("\n")[0]) == {"prompt": [6, 4, 12], "completion": [4, 6, 1]}
    jsonl.save(paths[1], Completions(data.prompt, tokens[:, :1], None, reward[:, :1]))
    np.testing.assert_array_equal(jsonl.load(paths[1:], SORT.spec).reward, [[1.0], [0.0]])


GOOD = {"prompt": "42=", "completion": "24"}


@pytest.mark.parametrize(
    "line, sentence",
    [
        ('{"prompt": "42=", ', "some.jsonl line 2 is no JSON: .* at column 19."),
        ("[1, 2]", 'line 2 is no object, as in {"prompt": ..., "chosen": ..., "rejected": ...}.'),
        ({"completion": "24"}, "line 2 must have a prompt and one of: completion; .*; chosen and rejected; .* It has completion."),
        ({"prompt": "42="}, "line 2 must have .* It has prompt."),
        ({"text": "42=24"}, "It has none of these."),
        ({"prompt": "42=", "chosen": "24"}, "It has prompt and chosen."),
        ({"prompt": "42=", "completion": "2", "chosen": "2", "rejected": "4"}, "It has prompt and chosen and completion and rej"),
        ({"prompt": "", "completion": "24"}, "line 2 has a prompt that is empty."),
        ({"prompt": "42=", "completion": []}, "line 2 has a completion that is empty."),
        ({"prompt": "142=", "completion": "24"}, "line 2 has a prompt of 4 tokens, but the environment's have 3 at most."),
        ({"prompt": "42=", "completion": "2469"}, "line 2 has a completion of 4 tokens, but the environment's have 3 at most."),
        ({"prompt": "42=", "completion": "2.4"}, "line 2 has a completion that goes on after END."),
        ({"prompt": "42=", "completion": "2x"}, "line 2 has a completion '2x': 'x' is no sign of this task"),
        ({"prompt": "42=", "completion": [4, 13]}, r"line 2 has a completion with the token 13; tokens are 1 \(END\) to 12."),
        ({"prompt": [0, 4], "completion": [4]}, "line 2 has a prompt with the token 0 .it is PAD, which is not written"),
        ({"prompt": [4.0], "completion": [4]}, r"line 2 has a prompt that is neither a string nor a list of token ids: \[4.0\]."),
        ({"prompt": [True], "completion": [4]}, "line 2 has a prompt that is neither"),
        ({"prompt": [{"role": "user"}], "completion": [4]}, "line 2 has a prompt that is neither"),
        ({"prompt": "42=", "completion": "24", "label": 1}, "line 2 has the label 1, which must be true or false."),
        ({"prompt": "42=", "chosen": "24", "rejected": [4, 6, 1]}, "has one completion twice, as the better and as the worse"),
        ({"prompt": "42=", "completions": ["2", "4", "2"], "ranks": [0, 1, 2]}, "line 2 has one completion twice"),
        ({"prompt": "42=", "completions": ["2"], "ranks": [0]}, "line 2 must have a list of 2 completions or more, not ..2.."),
        ({"prompt": "42=", "completions": "24", "rewards": [0, 1]}, "line 2 must have a list of 1 completions or more, not .24.."),
        ({"prompt": "42=", "completions": ["2", "4"], "ranks": [0]}, "as many ranks as completions, a list of 2."),
        ({"prompt": "42=", "completions": ["2", "4"], "ranks": [0, 0.5]}, "line 2 has the rank 0.5; ranks are 0 for the best"),
        ({"prompt": "42=", "completions": ["2", "4"], "ranks": [0, -1]}, "line 2 has the rank -1"),
        ({"prompt": "42=", "completions": ["2", "4"], "rewards": [0, float("nan")]}, "line 2 has nan among its rewards"),
        ({"prompt": "42=", "completions": ["2", "4"], "ranks": [1, 2]}, "line 2 has no rank 0, which is the best."),
        ({"prompt": "42=", "choosen": "24", "rejected": "42"}, "line 2 has 'choosen', which is not read; nearest: chosen."),
        ({"prompt": "42=", "completion": "24", "reward": 0.3}, "line 2 has 'reward', which is not read; nearest: rewards."),
        ('[{"prompt": "42=", "completion": "24"},', "an object a line is wanted, not one list"),
        ({"prompt": "42=", "completions": ["2", "4"], "rewards": [0, 10**400]}, "numbers that float32 holds"),
        ('{"prompt": "42=", "completions": ["2", "4"], "rewards": [0, 1e300]}', "line 2 has 1e.300 among its rewards"),
        ("[" * 100_000, "line 2 is no JSON that can be read: its numbers or its nesting are too large."),
        ({"prompt": "42=", "completions": ["2", "4"], "rewards": [0, "1"]}, "line 2 has '1' among its rewards"),
        ({"prompt": "42=", "chosen": "24", "rejected": "42"}, "line 2 is a pair, but .*line 1 is a demonstration: give one kind"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_line(load, line, sentence):
    with pytest.raises(UserError, match=sentence):
        load(GOOD, line)


def test_what_else_is_refused(tmp_path, load):
    with pytest.raises(UserError, match="line 3 has 3 completions, but .*line 1 has 2: all must have equally many"):
        load(*({"prompt": "42=", "completions": ["2", "4", "8"][:n], "rewards": [0.0] * n} for n in (2, 2, 3)))
    with pytest.raises(
        UserError, match="line 1 has a prompt as a string, whose bytes are 258 tokens, but the environment has 13"
    ):
        load(GOOD, encode=None)
    for nothing in ("", "\n \n"):
        with pytest.raises(UserError, match="some.jsonl is empty."):
            load(nothing)
    with pytest.raises(UserError, match="There is no file of completions .*other.jsonl."):
        jsonl.load([tmp_path / "other.jsonl"], SORT.spec)
    (tmp_path / "other.jsonl").write_bytes(b'{"prompt": "\xff"}')
    with pytest.raises(UserError, match="other.jsonl is no text in UTF-8"):
        jsonl.load([tmp_path / "other.jsonl"], SORT.spec)
