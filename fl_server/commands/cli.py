"""``fedleague``: everything around a run; here are the options, beside it one file a subcommand."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fl_common.cli_errors import friendly_errors
from fl_common.own_packages import bind_own_packages
from fl_common.terminal import console, print_version, say

app = typer.Typer(
    help="Look at use cases and results, predict, prepare sites.\n\n"
    "Runs are started with fl-server, sites join with fl-client.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
keys = typer.Typer(help="Keys that name a site to the server.", no_args_is_help=True)
certs = typer.Typer(help="TLS certificates of the server.", no_args_is_help=True)
app.add_typer(keys, name="keys")
app.add_typer(certs, name="certs")
new = typer.Typer(help="Start something of your own.", no_args_is_help=True)
app.add_typer(new, name="new")


def _version(asked: bool) -> None:
    if asked:
        print_version()
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show fedleague's version.", callback=_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@app.command()
def predict(
    run: Annotated[Path, typer.Option(help="Run folder with model.safetensors and model.json.")],
    data: Annotated[
        Path, typer.Option(help="CSV or Parquet file of rows, or pictures; no labels needed.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="What to write: .csv or .parquet; .json for boxes; a folder for masks."),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(help="Least score of a box that is written.", show_default="all that count"),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--id", help="Column of the rows to write beside predictions.")
    ] = None,
) -> None:
    """Predict with a run's model: a table of predictions, boxes as COCO JSON, or masks as PNG.

    Example: fedleague predict --run runs/breast_cancer/... --data rows.csv --out preds.csv
    """
    from fl_server.commands.predict import PredictOptions, predict_file

    say(predict_file(run, data, out, PredictOptions(threshold, key)))


@app.command()
def usecases(as_json: AsJson = False) -> None:
    """List the use cases that are ready to run."""
    from fl_server.commands.usecases import list_usecases, print_usecases

    if as_json:
        say(json.dumps([asdict(entry) for entry in list_usecases()], indent=2))
    else:
        print_usecases(console())
        say("run one: fl-server usecase=NAME")


@app.command()
def show(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.", metavar="RUN...")],
    as_json: AsJson = False,
) -> None:
    """Show the result of a run, or compare several."""
    from fl_server.commands.show import print_comparison, print_result, read_result

    if as_json:
        found = [read_result(run) for run in runs]
        say(json.dumps(found[0] if len(found) == 1 else found, indent=2))
    elif len(runs) == 1:
        print_result(runs[0], console())
    else:
        print_comparison(runs, console())


@app.command()
def board(
    db: Annotated[str, typer.Option(help="Database URL.")] = "sqlite:///fedleague.sqlite",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8080,
) -> None:
    """Serve the leaderboard of an existing database."""
    from fl_server.commands.board import serve_board

    serve_board(db, host, port)


@app.command()
def check(
    site: Annotated[Path, typer.Option(help="The site's site.yaml.")],
    usecase: Annotated[str, typer.Option(help="Use case whose schema the data must fit.")],
    override: Annotated[
        list[str] | None, typer.Option(help="usecase.target=y and the like.")
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(help="PNG to write: the site's pictures and labels, for its own eyes."),
    ] = None,
) -> None:
    """Check a site's data and policy against a use case; nothing leaves this machine."""
    from fl_server.commands.check import check_site

    for line in check_site(site, usecase, override or [], preview):
        say(line)


@app.command("export-sites")
def export_sites(
    usecase: Annotated[str, typer.Option(help="Use case with a data set of its own.")],
    out: Annotated[Path, typer.Option(help="Folder to write, one sub-folder a site.")],
    override: Annotated[
        list[str] | None, typer.Option(help="data.num_sites=3 and the like.")
    ] = None,
) -> None:
    """Write a use case's simulated sites, each with its site.yaml, to try a deployment."""
    from fl_server.commands.export_sites import write_sites

    for folder in write_sites(usecase, override or [], out):
        say(str(folder))


@new.command("strategy")
def new_strategy(
    name: Annotated[str, typer.Argument(help="A module name, such as my_strategy.")],
) -> None:
    """Write NAME.py, config/strategy/NAME.yaml and a passing test into the current folder."""
    _write("strategy", name, f"fl-server --config-dir config strategy={name}")


@new.command("task")
def new_task(name: Annotated[str, typer.Argument(help="A module name, such as my_task.")]) -> None:
    """Write a plugin with a task (NAME.py, pyproject.toml, a passing contract test)."""
    _write("task", name, f"pytest test_{name}.py; pip install -e . and usecase.task={name}")


@new.command("model")
def new_model(
    name: Annotated[str, typer.Argument(help="A module name, such as my_net.")],
) -> None:
    """Write a plugin with a network (NAME.py, pyproject.toml, a passing contract test)."""
    _write("model", name, f"fl-server model=custom model._target_={name}:{name}")


@new.command("metric")
def new_metric(
    name: Annotated[str, typer.Argument(help="A module name, such as my_metric.")],
) -> None:
    """Write a plugin with a metric (NAME.py, pyproject.toml, a passing test)."""
    asked = f"'+usecase.extra_metrics={{{name}:{{_target_:{name}}}}}'"
    _write("metric", name, f"pip install -e . and fl-server usecase=diabetes {asked}")


def _write(kind: str, name: str, how: str) -> None:
    from fl_server.commands.new_plugin import write_plugin

    for path in write_plugin(kind, name, Path()):
        say(str(path))
    say(f"try it: {how}")


@keys.command("new")
def keys_new(
    name: Annotated[str, typer.Argument(help="The site's name; writes NAME.key and NAME.pub.")],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
) -> None:
    """Make a site's key pair: keep NAME.key, send NAME.pub to the organiser."""
    from fl_server.superlink.keys import new_node_key

    private, public = new_node_key(out, name, force=force)
    say(f"{private}  (keep it at the site)")
    say(f"{public}  (send it to the organiser)")


@certs.command("new")
def certs_new(
    host: Annotated[
        list[str], typer.Option(help="Host name or address of the server; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(),
    force: Annotated[bool, typer.Option(help="Overwrite existing files.")] = False,
) -> None:
    """Make a private CA and a server certificate: give ca.pem to the sites."""
    from fl_server.superlink.keys import new_certificates

    for path in new_certificates(out, host, force=force):
        say(str(path))


def main() -> None:
    """Entry point of ``fedleague``."""
    bind_own_packages()
    with friendly_errors("fedleague"):
        app()


if __name__ == "__main__":
    main()
