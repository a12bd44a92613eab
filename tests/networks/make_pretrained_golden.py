"""Writes tests/networks/pretrained/: tiny models of transformers (huggingface/transformers) with random weights, and their logits.

Nothing of this suite is imported. In an environment of its own:

    pip install torch==2.13.0
    pip install transformers==5.23.0 safetensors==0.8.0
    python tests/networks/make_pretrained_golden.py

Each folder is as transformers saves it. logits.npz has, for each, a batch of tokens padded before them (-1 where padded), and the
logits, computed from what was saved; at padding they are 0.
"""

import json
import pathlib
import shutil

import numpy as np
import torch
import transformers

FOLDER = pathlib.Path(__file__).with_name("pretrained")
VOCABULARY, WIDTH, LENGTH = 40, 16, 9
PADDED = (0, 2, 5)
SHARED = dict(
    vocab_size=VOCABULARY,
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=24,
    max_position_embeddings=32,
    bos_token_id=None,
)
ROTARY = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ROTARY |= {"original_max_position_embeddings": 32, "rope_theta": 100.0}


def configs():
    """Tokens of padding and end: none and the last; both swapped; one of our numbers only; as ours; the same for both."""
    size = dict(vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=2, n_head=4, n_positions=16, bos_token_id=None)
    yield "gpt2", transformers.GPT2Config(**size, eos_token_id=39)
    yield "llama", transformers.LlamaConfig(**SHARED, pad_token_id=1, eos_token_id=0, rms_norm_eps=1e-5)
    grouped = dict(num_key_value_heads=2, head_dim=8, tie_word_embeddings=True, rope_parameters=ROTARY)
    yield "llama_grouped", transformers.LlamaConfig(**SHARED, **grouped, pad_token_id=7, eos_token_id=[5, 3])
    grouped = dict(num_key_value_heads=2, rope_theta=1000.0)
    yield "qwen2", transformers.Qwen2Config(**SHARED, **grouped, pad_token_id=0, eos_token_id=1)
    same = dict(num_key_value_heads=4, tie_word_embeddings=True)
    yield "qwen2_tied", transformers.Qwen2Config(**SHARED, **same, pad_token_id=4, eos_token_id=4)


def randomise(model):
    """Weights so large that it matters what is read, and biases that are not 0."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_scale = weight.ndim == 1 and name.endswith("weight")
            weight.copy_(1.0 + 0.2 * noise if is_scale else (0.3 if weight.ndim > 1 else 0.1) * noise)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    arrays = {}
    for number, (name, config) in enumerate(configs()):
        model = transformers.AutoModelForCausalLM.from_config(config)
        randomise(model)
        if name == "qwen2":  # is saved in half precision
            model = model.to(torch.bfloat16)
        model.save_pretrained(FOLDER / name, max_shard_size="10KB" if name == "llama_grouped" else "1GB")
        model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER / name, dtype=torch.float32).eval()
        tokens = np.random.default_rng(number).integers(8, VOCABULARY - 1, (len(PADDED), LENGTH))
        there = np.arange(LENGTH) >= np.array(PADDED)[:, None]
        position = np.maximum(np.cumsum(there, axis=1) - 1, 0)
        with torch.no_grad():
            logits = model(
                input_ids=torch.tensor(tokens),
                attention_mask=torch.tensor(there).long(),
                position_ids=torch.tensor(position),
            ).logits.numpy()
        arrays[f"{name}/tokens"] = np.where(there, tokens, -1).astype(np.int8)
        arrays[f"{name}/logits"] = np.where(there[..., None], logits, 0.0).astype(np.float32)
        (FOLDER / name / "generation_config.json").unlink(missing_ok=True)
        print(name, logits.std(), json.loads((FOLDER / name / "config.json").read_text()))
    np.savez_compressed(FOLDER / "logits.npz", **arrays)


if __name__ == "__main__":
    main()
