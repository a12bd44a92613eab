"""What agents there are, and the settings of each.

  python -m rljax.experiments.agents                             all of them, by family
  python -m rljax.experiments.agents iql --env=brax/hopper       what one is, and its settings there
  python -m rljax.experiments.agents my_package.my_agent         one of your own

A setting marked `swept` is a number that may differ between the runs of one program (--sweep); the others shape the program.
"""

import ast
import dataclasses
import inspect
import io
import re
import sys
import textwrap
import tokenize
from types import ModuleType

from absl import app, flags
from rich.console import Console
from rich.table import Table

from rljax.envs import make as make_env
from rljax.experiments import catalog, cli

FLAGS = flags.FLAGS


def main(argv):
    if FLAGS.env:
        make_env(FLAGS.env)  # refuses what there is not
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for name in argv[1:]:
        console.print(f"{name}: {inspect.getdoc(catalog.agent(name))}\n", markup=False)
        console.print(of_settings(name, FLAGS.env))
    if len(argv) == 1:
        console.print(of_agents())


def of_agents() -> Table:
    """A row for each agent: its name, what its source reads besides the environment, and the first sentence about it."""
    table, family = Table(box=None, pad_edge=False), ""
    for column in ("agent", "reads", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column != "what it is")
    for name, path in catalog.AGENTS.items():
        if (of := path.split(".")[-2]) != family:
            family = of
            table.add_section()
            table.add_row(f"[bold]{family}[/bold]", "", "")
        table.add_row(name, reads(name), first_sentence(catalog.agent(name)))
    return table


def reads(name: str) -> str:
    """What the source of an agent reads besides the environment; in brackets what it can do without."""
    given = list(inspect.signature(catalog.agent(name).source).parameters.values())[2:]
    shown = [f"({x.name})" if x.default is not inspect.Parameter.empty else x.name for x in given]
    return ", ".join(shown) or "its own steps"


def first_sentence(module: ModuleType) -> str:
    """How a module's docstring begins, up to the paper."""
    text = " ".join((inspect.getdoc(module) or "").split("\n\n")[0].split())
    return re.split(r"(?<!\bDr)\. ", text)[0].rstrip(".") + "."


def of_settings(name: str, env: str = "") -> Table:
    """A row for each setting of an agent: its value in an environment, whether it can be swept, and what is said of it."""
    config = catalog.agent(name).Config()
    tuned, said = catalog.tuned(name, env), comments(type(config))
    table = Table(box=None, pad_edge=False)
    for column in ("setting", f"value in {env}" if env else "value", "", "what it is"):
        table.add_column(column, overflow="fold", no_wrap=column == "setting")
    for key, value in catalog.fields(config).items():
        shown = f"{tuned[key]!r} (elsewhere {value!r})" if tuned.get(key, value) != value else repr(value)
        table.add_row(key, shown, "swept" if catalog.is_swept(name, key) else "", said.get(key, ""))
    return table


def comments(kind: type) -> dict[str, str]:
    """What the source says beside the fields of a dataclass and of those it extends."""
    found = {}
    for part in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(part):
            continue
        source = textwrap.dedent(inspect.getsource(part))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        beside = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign) and node.end_lineno in beside:
                found[node.target.id] = beside[node.end_lineno]
    return found


def entry(argv=None):
    """Parse flags, show, and turn what a user can mend into one sentence and a non-zero exit."""
    flags.DEFINE_string("env", "", "Environment whose settings are shown, where any are kept.")
    cli.define_debug_flag()
    app.run(cli.guarded(main), list(sys.argv if argv is None else argv))


if __name__ == "__main__":
    entry()
