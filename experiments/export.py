"""Write the policy that a run has learnt to a folder of Hugging Face, which `transformers` opens and other runs can begin from.

  python -m rljax.experiments.export --run_dir=runs/grpo --output=models/sorter
  python -m rljax.experiments.train --agent=grpo --env=tokens/sort-8 --config.model=models/sorter

The last checkpoint's agent, of the first seed or another. A run that itself began from a folder keeps that one's config.json,
numbers of tokens and tokenizer; others are written as a Llama, of which PAD is token 0 and END is token 1.
"""

import pathlib

import jax
from absl import app, flags

from rljax import parallel
from rljax.agents.alignment import writer
from rljax.errors import UserError
from rljax.experiments import catalog, cli
from rljax.experiments.folder import Folder, load
from rljax.networks import pretrained

FLAGS = flags.FLAGS


def main(argv):
    cli.reject_arguments(argv)
    folder = cli.run_folder()
    if not FLAGS.output:
        raise UserError("--output=FOLDER must name the folder to write.")
    print(export(folder, FLAGS.output, FLAGS.index))


def export(folder: Folder, output: str | pathlib.Path, index: int = 0) -> str:
    """Write the folder; returns a sentence about it. Arguments are the flags.

    Raises:
      UserError: there is no such run, checkpoint or index, its agents write no tokens, or the output holds other files.
    """
    plan = folder.plan()
    if not isinstance(catalog.configure(plan.agent, plan.config), writer.Config):
        raise UserError(f"{folder.path} is a run of {plan.agent}, which writes no tokens and has no language model.")
    program, states, steps = load(folder.path)
    if not 0 <= index < len(program.runs):
        raise UserError(f"--index={index}: {folder.path} has {len(program.runs)} agents, from 0.")
    state = parallel.select(getattr(states, "policy", states), index)  # the policy of who learns more than that
    network, params = writer.network_of(program.spec, program.config), state.model.params
    pretrained.save(output, network, jax.device_get(params), program.config.model or None)
    size = sum(x.size for x in jax.tree.leaves(params))
    return f"{output}: {size:,} parameters of {plan.agent} after {steps:,} steps, seed {program.runs[index][1]}"


def entry(argv=None):
    """Parse flags, write, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string("run_dir", None, "Folder of the run.")
    flags.DEFINE_string("output", None, "Folder to write.")
    flags.DEFINE_integer(
        "index", 0, "Which agent: its place in the run's points and seeds, all seeds of the first point first."
    )
    cli.define_debug_flag()
    app.run(cli.guarded(main), argv)


if __name__ == "__main__":
    entry()
