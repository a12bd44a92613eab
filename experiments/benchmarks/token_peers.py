"""Completions per second that GRPO writes, has verified and learns from, by a named library, in whatever Python runs this file;
prints them as JSON.

  python token_peers.py trl large

The same for both, on one thread: eight digits to be sorted, prompts answered 8 times each in up to 9 tokens, one epoch of one
batch, rewards compared within a prompt, no divergence from a reference, AdamW; a new gated decoder. `few` has one prompt an update
and a model of 2 layers of width 64 (about 0.1 million parameters), `small` has 32 prompts, `large` 32 and 4 layers of 128 (0.8
million). Half of the completions of new models end early, which saves the other one's last tokens at most, and ours nothing.
Compiling, loading and the first updates are left out of both.
"""

import json
import os
import sys
import tempfile
import time

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NPROC": "1"}
os.environ["HF_HUB_OFFLINE"] = "1"  # the model and the prompts are made here

import numpy as np

SIZES = {"few": (1, 64, 2), "small": (32, 64, 2), "large": (32, 128, 4)}  # prompts, width, layers
HEADS, DIGITS, GROUP, RATE, SECONDS = 4, 8, 8, 3e-4, 10.0
SIGNS = ("<pad>", "<end>", *map(str, range(10)), "=", "+")  # of envs/tokens.py, in their order


def rljax_completions(size: str) -> float:
    import jax

    import rljax
    from rljax import envs, train
    from rljax.agents.alignment import grpo
    from rljax.experiments.benchmarks.rate import iterations_per_second

    rljax.runtime.use_cpu_devices(1)
    (num_prompts, width, num_layers), env = SIZES[size], envs.make(f"tokens/sort-{DIGITS}")
    config = grpo.Config(
        width=width,
        num_layers=num_layers,
        num_heads=HEADS,
        num_prompts=num_prompts,
        group_size=GROUP,
        learning_rate=RATE,
    )
    learner = train.make(grpo.make(env.spec, config), grpo.source(env, config))
    state = jax.jit(learner.init)(jax.random.key(0))
    return num_prompts * GROUP * iterations_per_second(learner.run, state, seconds=SECONDS)


def trl_completions(size: str, warmup: int = 3) -> float:
    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    num_prompts, width, num_layers = SIZES[size]
    words = Tokenizer(WordLevel({sign: i for i, sign in enumerate(SIGNS)}, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", padding_side="left"
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(SIGNS),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=num_layers,
            num_attention_heads=HEADS,
            tie_word_embeddings=True,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
    )
    drawn = np.random.default_rng(0).integers(0, 10, (5_000, DIGITS))
    prompts = Dataset.from_list([{"prompt": " ".join([*map(str, row), "="])} for row in drawn])

    def reward(prompts, completions, **_):
        asked = [sorted(prompt.split()[:DIGITS]) for prompt in prompts]
        return [float(said.split() == right) for said, right in zip(completions, asked)]

    times = []

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            times.append(time.perf_counter())
            control.should_training_stop = len(times) > warmup and times[-1] - times[warmup - 1] > SECONDS

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            fp16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=num_prompts * GROUP,
            steps_per_generation=1,
            num_generations=GROUP,
            max_completion_length=DIGITS + 1,
            learning_rate=RATE,
            beta=0.0,
            loss_type="grpo",
            max_steps=10_000,
            logging_steps=1_000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = GRPOTrainer(
            model, reward, args=config, train_dataset=prompts, processing_class=tokenizer, callbacks=[Clock()]
        )
        trainer.train()
    return (len(times) - warmup) / (times[-1] - times[warmup - 1]) * num_prompts * GROUP


if __name__ == "__main__":
    library, asked = sys.argv[1:]
    print(json.dumps({"completions_per_second": {"rljax": rljax_completions, "trl": trl_completions}[library](asked)}))
