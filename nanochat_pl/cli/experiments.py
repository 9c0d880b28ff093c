"""`python -m nanochat_pl experiments list|show|compare|best|plot|write`: what was tried, and what came of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from nanochat_pl.reporting.experiments.experiment import Experiment

app = typer.Typer(help="What was tried and what came of it: one experiment a run and stage.", no_args_is_help=True)

COLUMNS = {
    "val bpb": "val_bpb", "train loss": "train_loss", "tok/s": "tokens_per_second", "time": "wall_seconds", "date": "",
}  # fmt: skip
"""Of the list, the most wanted first -> the result."""
PLAIN: dict[str, Any] = {"box": None, "padding": (0, 2, 0, 0)}
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Name = Annotated[str, typer.Argument(help="As in `list`: tiny/base; of a run's name alone, its latest stage.")]
Metric = Annotated[
    str | None, typer.Option(help="A result: val_bpb, train_loss, tokens_per_second, a suite such as core ...")
]


@app.command("list")
def list_experiments(as_json: AsJson = False) -> None:
    """List all experiments in the order in which they began."""
    from nanochat_pl.cli.screen import console, show, show_json

    experiments = _experiments()
    if as_json:
        show_json([experiment.as_record() for experiment in experiments])
    elif not experiments:
        print("There are no experiments yet; `python train.py` makes one.")
    else:
        columns, screen = list(COLUMNS), console()
        unlimited = screen.options.update_width(10_000)
        while columns and screen.measure(_table(experiments, columns), options=unlimited).maximum > screen.width:
            columns.pop()  # a narrow terminal
        show(_table(experiments, columns))


@app.command("show")
def show_one(name: Name, as_json: AsJson = False) -> None:
    """Show one: goal, command, differences, results, observations."""
    from rich.markdown import Markdown

    from nanochat_pl.cli.screen import show, show_json
    from nanochat_pl.reporting.experiments.comparing import find_experiment
    from nanochat_pl.reporting.experiments.page import section_of

    experiment = find_experiment(name, _experiments())
    if as_json:
        show_json(experiment.as_record())
        return
    text = f"### {experiment.name} ({experiment.began[:16].replace('T', ' ')})\n\n{section_of(experiment)}"
    if sys.stdout.isatty():
        show(Markdown(text))
    else:
        print(text)


@app.command()
def compare(first: Name, other: Name, metric: Metric = None, as_json: AsJson = False) -> None:
    """Compare two: what they differ in, their results, and which is better by how much."""
    import dataclasses

    from rich.markup import escape
    from rich.text import Text

    from nanochat_pl.cli.screen import show, show_json, table
    from nanochat_pl.core.errors import UserError, nearest
    from nanochat_pl.reporting.experiments import comparing
    from nanochat_pl.reporting.experiments.words import setting, shown

    experiments = _experiments()
    one, two = (comparing.find_experiment(name, experiments) for name in (first, other))
    if one is two:
        raise UserError(f"Both are {one.name}; name two experiments.")
    if metric and metric not in (metrics := sorted(one.results.keys() | two.results.keys())):
        raise UserError(f"Neither has the result '{metric}'{nearest(metric, metrics)} Metrics: {', '.join(metrics)}.")
    comparison = comparing.compare(one, two, experiments, metric or comparing.METRIC_OF[two.stage])
    if as_json:
        show_json(dataclasses.asdict(comparison))
        return
    for title, rows in (
        ("option", [[key, setting(old), setting(new)] for key, old, new in comparison.differences]),
        ("result", [[key, *(shown(key, value) for value in both)] for key, both in comparison.results.items()]),
    ):
        beside = table(title, escape(one.name), escape(two.name), **PLAIN)
        for row in rows:
            beside.add_row(*map(Text, row))
        show(beside if rows else "They have the same settings.", "")
    print("\n".join([comparison.verdict, *comparison.cautions]))


@app.command()
def best(metric: Metric = None, as_json: AsJson = False) -> None:
    """Name the best finished experiment of each stage, and the next ones."""
    from rich.text import Text

    from nanochat_pl.cli.screen import show, show_json, table
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.reporting.experiments.comparing import METRIC_OF, ranked, seeds_of
    from nanochat_pl.reporting.experiments.words import shared, short_config, shown

    experiments = _experiments()
    if metric:
        ranked(experiments, metric)  # which raises where there is none
    of_all = shared(experiments)
    winners = table("stage", "", "experiment", "", "", "", **PLAIN)
    records: list[dict[str, Any]] = []
    for stage, own in METRIC_OF.items():
        by = metric or own
        try:
            first = ranked([one for one in experiments if one.stage == stage], by)[:3]
        except UserError:
            continue
        for place, one in enumerate(first, 1):
            seeds = len(seeds_of(one, experiments, by))
            facts = {"stage": stage, "place": place, "name": one.name, "metric": by, "value": one.results[by]}
            records.append(facts | {"seeds": seeds})
            name = Text(f"{one.name}  {short_config(one, of_all)}")
            cells = f"{place}.", name, by, shown(by, one.results[by]), f"seeds: {seeds}"
            winners.add_row("" if place > 1 else stage, *cells)
    if as_json:
        show_json(records)
        return
    if not records:
        raise UserError("There is no finished experiment yet; `python -m nanochat_pl experiments list` shows all.")
    show(winners)


@app.command()
def plot(
    names: Annotated[list[str] | None, typer.Argument(help="Which; without any, the newest of one stage.")] = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("experiments.png"),
    log: Annotated[bool, typer.Option("--log", help="Logarithmic axes: a power law is a straight line.")] = False,
) -> None:
    """Draw training loss and validation over the steps."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.reporting.experiments.comparing import find_experiment
    from nanochat_pl.reporting.experiments.picture import MOST, draw_experiments

    experiments = _experiments()
    chosen = [find_experiment(name, experiments) for name in names or ()]
    if not chosen and experiments:
        chosen = [one for one in experiments if one.stage == experiments[-1].stage][-MOST:]
    if len(chosen) > MOST:
        raise UserError(f"{len(chosen)} experiments are too many to tell apart; name {MOST} at most.")
    try:
        drawn = draw_experiments(chosen, runs_root(), out, log)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); name another file with --out.") from error
    if not drawn:
        raise UserError("None of these experiments has a metrics.csv to draw; `experiments list` shows what there is.")
    for one in chosen:
        if one.name not in drawn:
            print(f"{one.name} is left out: there is no metrics.csv in its folder.", file=sys.stderr)
    print(f"Wrote {out}: {', '.join(drawn)}.")


@app.command()
def write(
    path: Annotated[Path | None, typer.Argument(help="The file; else .claude/experiments.md beside runs.")] = None,
) -> None:
    """Renew experiments.jsonl and experiments.md; what people wrote stays."""
    from nanochat_pl.core.errors import UserError
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.reporting.experiments.ledger import keep_experiments, ledger_of
    from nanochat_pl.reporting.experiments.page import markdown_beside, write_markdown

    root = runs_root()
    if not root.is_dir():
        raise UserError(f"There is no folder of runs at {root}; `python train.py` makes one.")
    keep_experiments(root)
    print(ledger_of(root))
    path = path or markdown_beside(root)
    if path is None:
        raise UserError(
            f"There is no .claude folder beside {root} to write experiments.md to. Make one, or name a file: "
            "`experiments write FILE`."
        )
    if path.is_dir():
        path = path / "experiments.md"
    copy = write_markdown(path, root)
    print(path)
    if copy:
        print(f"Somebody had written inside a generated part; as it was, it is {copy}.", file=sys.stderr)


def _experiments() -> list["Experiment"]:
    """All, and experiments.jsonl brought up to date where that can be done."""
    from nanochat_pl.core.errors import MachineError, UserError
    from nanochat_pl.core.paths import runs_root
    from nanochat_pl.reporting.experiments.ledger import keep_experiments, read_experiments

    try:
        return keep_experiments(runs_root())
    except (OSError, MachineError, UserError) as error:
        print(f"experiments.jsonl is not brought up to date: {error}", file=sys.stderr)
        return read_experiments(runs_root())


def _table(experiments: "list[Experiment]", columns: list[str]) -> "Table":
    from rich.text import Text

    from nanochat_pl.cli.screen import table
    from nanochat_pl.reporting.experiments.words import shown

    rows = table("experiment", "status", "step", *columns, numbers=len(columns) + 1, **PLAIN)
    for one in experiments:
        step = f"{one.step:,}" if one.step == one.steps or not one.steps else f"{one.step:,} of {one.steps:,}"
        results = [(COLUMNS[column], one.results.get(COLUMNS[column])) for column in columns]
        cells = [shown(metric, value) if metric else one.began[:10] for metric, value in results]
        status = Text(one.status, style="" if one.status in ("finished", "running") else "red")
        rows.add_row(Text(one.name), status, step, *cells)
    return rows
