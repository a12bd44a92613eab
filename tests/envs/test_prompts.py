"""Questions of a file: what is read of it, what is paid, and texts by a folder's tokenizer."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import completions, envs
from rljax.agents.alignment import sft
from rljax.check import check_env, check_prompts
from rljax.errors import UserError
from rljax.tokens import END, PAD, mask

FOLDER = pathlib.Path(__file__).parents[1] / "networks" / "pretrained"
SUMS = [{"prompt": "1+1=", "answer": "2"}, {"prompt": "40+2=", "answer": "42", "by": "hand"}]


def written(path, lines):
    path.write_text("\n".join(json.dumps(line) for line in lines))
    return path


@pytest.fixture
def sums(tmp_path):
    return written(tmp_path / "sums.jsonl", SUMS)


def bytes_of(text, size, behind=True):
    tokens = [byte + 2 for byte in text.encode()]
    padding = [PAD] * (size - len(tokens))
    return tokens + padding if behind else padding + tokens


def test_what_is_read(sums):
    env = envs.make(f"prompts/{sums}")
    check_env(env)
    check_prompts(env)
    np.testing.assert_array_equal(env.prompt, [bytes_of("1+1=", 5, behind=False), bytes_of("40+2=", 5, behind=False)])
    np.testing.assert_array_equal(env.answer, [bytes_of("2", 2), bytes_of("42", 2)])
    assert env.spec.observation_shape == (5,) and env.spec.action.length == 3 and env.spec.action.vocabulary == 258
    seen = {env.decode(prompt): env.decode(answer) for prompt, answer in examples(env)}
    assert seen == {"1+1=": "2", "40+2=": "42"}
    assert all((answer == END).sum() == 1 for _, answer in examples(env))
    np.testing.assert_array_equal(jax.vmap(env.asked)(env.prompt), env.answer)
    roomy = envs.make(f"prompts/{sums}?length=6&prompt=9")
    assert roomy.spec.observation_shape == (9,) and roomy.spec.action.length == 6


def examples(env):
    return list(zip(*map(np.asarray, jax.vmap(env.example)(jax.random.split(jax.random.key(0), 20)))))


COMPLETIONS = {  # of the answer 42: whether it is exact, ends with it, contains it
    "42.": (1, 1, 1),
    "=42.": (0, 1, 1),
    "42=.": (0, 0, 1),
    "442.": (0, 1, 1),
    "4.": (0, 0, 0),
    "24.": (0, 0, 0),
    "..": (0, 0, 0),
    "42": (0, 0, 1),
    "442=42": (0, 0, 1),
    "4=2.": (0, 0, 0),
    "=====4": (0, 0, 0),
}


@pytest.mark.parametrize("kind", [0, 1, 2])
def test_what_is_paid(sums, kind):
    match = ("exact", "ends", "contains")[kind]
    env = envs.make(f"prompts/{sums}?length=6&match={match}")
    action = np.full((len(COMPLETIONS), 6), PAD, np.int32)
    for row, text in zip(action, COMPLETIONS):
        row[: len(text)] = [END if sign == "." else ord(sign) + 2 for sign in text]
    state = jnp.tile(jnp.asarray(env.answer)[1], (len(action), 1))
    _, step = jax.vmap(lambda state, action: env.step(state, action, jax.random.key(0)))(state, jnp.asarray(action))
    assert dict(zip(COMPLETIONS, step.reward.tolist())) == {text: paid[kind] for text, paid in COMPLETIONS.items()}
    assert step.terminated.all() and not step.truncated.any()
    for prompt, answer in examples(env):
        state = env.answer[0] if env.decode(prompt) == "1+1=" else env.answer[1]
        assert env.step(state, jnp.asarray(answer), jax.random.key(0))[1].reward == 1.0


@pytest.fixture(params=["gpt2", "llama"])
def model(tmp_path, request):
    """A folder with a tokenizer of words: of gpt2, which has no PAD, and of llama, whose PAD is 1 and END 0."""
    tokenizers = pytest.importorskip("tokenizers")
    folder = shutil.copytree(FOLDER / request.param, tmp_path / request.param)
    end = json.loads((folder / "config.json").read_text())["eos_token_id"]
    words = ["one", "two", "three", "plus", "is", "<unk>"]
    free = (number for number in range(40) if number not in (0, 1, end))
    numbers = {"<end>": end} | dict(zip(words, free))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder, numbers


def test_texts_of_a_folder(tmp_path, model):
    """Its tokens keep their numbers but PAD and END; its model learns from the file."""
    folder, numbers = model
    lines = [{"prompt": "one plus two is", "answer": "three"}, {"prompt": "<end> one is", "answer": "one"}]
    env = envs.make(f"prompts/{written(tmp_path / 'words.jsonl', lines)}?tokenizer={folder}")
    assert env.spec.action.vocabulary == (41 if folder.name == "gpt2" else 40)
    assert env.encode("one <end> plus") == [numbers["one"], END, numbers["plus"]]
    assert env.decode([PAD, *env.encode("one plus three"), END]) == "one plus three <end>"
    np.testing.assert_array_equal(env.prompt[1], [PAD, END, numbers["one"], numbers["is"]])
    assert env is not envs.make(f"prompts/{tmp_path / 'words.jsonl'}?tokenizer={folder}")
    if folder.name == "llama":
        config = sft.Config(model=str(folder), num_prompts=4)
        source = completions.examples(env, 4)
        agent = sft.make(env.spec, config)
        state = agent.init(jax.random.key(0))
        _, batch, _ = source.next((), agent, state, jax.random.key(1))
        _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))
        assert np.isfinite(metrics["loss/policy"]) and mask(batch.tokens).all()


@pytest.mark.parametrize(
    "lines, options, sentence",
    [
        ([{"prompt": "a"}], "", "line 1 has no answer"),
        ([{"prompt": "a", "answer": ""}], "", "line 1 has an answer that is empty"),
        ([{"prompt": [5, 999], "answer": "b"}], "", "line 1 has a prompt with the token 999"),
        ([{"prompt": "a", "answer": [5, 1]}], "", "line 1 has an answer with an END"),
        ([{"prompt": "abc", "answer": "b"}], "prompt=2", "line 1 has a prompt of 3 tokens, but there is room for 2"),
        ([{"prompt": "a", "answer": "bcd"}], "length=3", "line 1 has an answer of 3 tokens, but there is room for 2"),
        (SUMS, "match=equal", "match=equal is none of what is paid"),
        (SUMS, "length=-1", "length=-1 and prompt=0 must be"),
        (SUMS, "tokenizer=nowhere", "nowhere"),
        (SUMS, "file=other", "Unknown option 'file'"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, lines, options, sentence):
    with pytest.raises(UserError, match=sentence):
        envs.make(f"prompts/{written(tmp_path / 'file.jsonl', lines)}?{options}")


def test_a_file_that_is_not_there_and_folders_without_texts(tmp_path, sums):
    with pytest.raises(UserError, match="There is no file of completions"):
        envs.make(f"prompts/{tmp_path / 'none.jsonl'}")
    with pytest.raises(UserError, match="has no tokenizer.json"):
        envs.make(f"prompts/{sums}?tokenizer={FOLDER / 'qwen2'}")
    folder = shutil.copytree(FOLDER / "qwen2", tmp_path / "broken")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json cannot be read"):
        envs.make(f"prompts/{sums}?tokenizer={folder}")
