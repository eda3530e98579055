"""``crossknn build | update | search | tune | evaluate | benchmark | distill | serve | verify | cache | demo``."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from crossknn.cli.benchmark import benchmark_command
from crossknn.cli.build import build
from crossknn.cli.cache import cache
from crossknn.cli.demo import demo
from crossknn.cli.distill import distill
from crossknn.cli.evaluate import evaluate_command
from crossknn.cli.search import search
from crossknn.cli.serve import serve
from crossknn.cli.terminal import out
from crossknn.cli.tune import tune_command
from crossknn.cli.update import update
from crossknn.cli.verify import verify

app = typer.Typer(
    name="crossknn",
    help="k-NN search with cross-encoders: their own top k over all items, within a budget of calls.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(build)
app.command()(update)
app.command()(search)
app.command("evaluate")(evaluate_command)
app.command()(distill)
app.command("tune")(tune_command)
app.command("benchmark")(benchmark_command)
app.command()(serve)
app.command()(verify)
app.add_typer(cache, name="cache")
app.command()(demo)


def _say_version(asked: bool) -> None:
    if asked:
        out.print(f"crossknn {version('crossknn')}", highlight=False)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """k-NN search with cross-encoders: their own top k over all items, within a budget of calls."""
