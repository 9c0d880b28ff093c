"""experiments.md: summary, best result, things to try, a section a run; kept up to date around people's notes."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from urllib.parse import quote

from nanochat_pl.core.errors import UserError
from nanochat_pl.reporting.experiments.comparing import METRIC_OF, ranked, seeds_of
from nanochat_pl.reporting.experiments.experiment import Ending, Experiment
from nanochat_pl.reporting.experiments.ideas import ideas_from
from nanochat_pl.reporting.experiments.ledger import holding, keep_copy, read_experiments, write_over
from nanochat_pl.reporting.experiments.regions import BrokenMarksError, marked, regions_of, renewed, with_new
from nanochat_pl.reporting.experiments.words import (
    NAMES,
    chosen,
    command_of,
    setting,
    shared,
    short_config,
    shown,
    standing,
    suites,
    troubles,
)
from nanochat_pl.reporting.page import fenced, in_line, printable

HEAD = """\
# nanochat-pl experiments

What stands between two `tracker` marks is written anew by each training, and by `python -m nanochat_pl experiments
write`. All else is yours and stays: notes below an experiment, your own sections, your own things to try.
"""
PARTS = {"summary": "Summary", "best": "Best result", "ideas": "Things to try"}
"""Regions that stand once -> their headings."""
COLUMNS = ("Run", "Date", "Status", "Config", "Loss", "Val bpb", "Evaluations", "Notes")


def markdown_beside(root: Path) -> Path | None:
    """Where the experiments of a folder of runs are told: .claude/experiments.md beside it; None without a .claude.

    The .claude of the home folder is not one of a project.
    """
    folder = root.resolve().parent / ".claude"
    return folder / "experiments.md" if folder.is_dir() and folder.parent != Path.home().resolve() else None


def write_markdown(path: Path, root: Path, endings: Mapping[str, Ending] | None = None) -> Path | None:
    """Renew the generated regions, add what is new; the rest stays byte for byte.

    Returns:
        The copy of the file as it was, where somebody had written inside a region that is renewed.

    Raises:
        LockedError: another process holds the file.
        UserError: its marks are broken, or it is read-only, so that it is left alone.
        MachineError, OSError: it cannot be written, or not be read.
    """
    with holding(path):
        before = path.read_bytes() if path.exists() else b""
        text = before.decode("utf-8", "surrogateescape")
        try:
            # Read here, so that of two who write at once the later one knows all that the other does.
            after, overwritten = _updated(text, read_experiments(root, endings))
        except BrokenMarksError as error:
            raise UserError(
                f"{path} is left as it is: of the marks that say what is generated, {error}. Mend that line, or move "
                "the file away and run `python -m nanochat_pl experiments write`."
            ) from None
        if after == text:
            return None
        copy = keep_copy(path) if overwritten else None
        write_over(path, after.encode("utf-8", "surrogateescape"))
        return copy


def _updated(text: str, experiments: Sequence[Experiment]) -> tuple[str, bool]:
    """The new text, and whether it has lost what somebody wrote inside a region."""
    contents = {
        "summary": _summary(experiments),
        "best": _best(experiments),
        "ideas": _ideas(experiments),
    } | {_mark(experiment): section_of(experiment) for experiment in experiments}
    before = regions_of(text)
    after = renewed(text, contents)
    if not before:
        parts = [f"## {title}\n\n{marked(name, contents[name])}\n" for name, title in PARTS.items()]
        head = "" if text.strip() else f"{HEAD}\n"
        after = with_new(after, head + "\n".join([*parts, "## Experiments\n\n<!-- tracker:new -->\n"]))
    for mark, experiment in {_mark(experiment): experiment for experiment in experiments}.items():
        if mark not in before:
            title = in_line(printable(f"{experiment.name} ({experiment.began[:10] or 'not dated'})"))
            after = with_new(after, f"### {title}\n\n{marked(mark, contents[mark])}\n")
    now = regions_of(after)
    return after, any(region.is_edited and now[name].content != region.content for name, region in before.items())


def _mark(experiment: Experiment) -> str:
    """Notes below the region of a run that is moved aside stay with it."""
    return quote(f"run:{experiment.identity}", safe=":/,=+@")


def _summary(experiments: Sequence[Experiment]) -> str:
    rows = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    of_all = shared(experiments)
    for one in experiments:
        cells = [one.name, one.began[:10], one.status, short_config(one, of_all)]
        cells += [shown(metric, one.results.get(metric)) for metric in ("train_loss", "val_bpb")]
        at = standing(one).removeprefix(one.status).strip()
        cells += [suites(one) or "-", "; ".join(filter(None, (at, troubles(one), one.goal)))]
        rows.append(f"| {' | '.join(in_line(cell) for cell in cells)} |")
    if of_all:
        rows.append(f"\nIn all of them: {in_line(', '.join(of_all))}")
    if not experiments:
        rows.append("| (no experiments yet) " + "| - " * (len(COLUMNS) - 1) + "|")
    return printable("\n".join(rows))


def _best(experiments: Sequence[Experiment]) -> str:
    blocks = []
    for stage, metric in METRIC_OF.items():
        try:
            best = ranked([one for one in experiments if one.stage == stage], metric)[0]
        except UserError:
            continue
        lines = {"Run": f"{best.name} ({stage})", "Config": short_config(best)}
        lines |= {NAMES.get(name, name): shown(name, best.results.get(name)) for name in ("train_loss", metric)}
        values = seeds_of(best, experiments, metric)
        if len(values) > 1:
            spread = f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"
            lines["Seeds"] = f"{spread} over {len(values)}"
        else:
            lines["Seeds"] = "one; how much of a difference is chance is not known"
        if evaluated := suites(best):
            lines["Evaluations"] = evaluated
        blocks.append("\n".join(f"- **{name}**: {in_line(value)}" for name, value in lines.items()))
    return printable("\n\n".join(blocks) or "Not yet established: nothing has finished.")


def _ideas(experiments: Sequence[Experiment]) -> str:
    ideas = ideas_from(experiments)
    if not ideas:
        return "- [ ] The baseline: `python train.py`"
    blocks = ((text, indent(fenced(command, "bash"), "  ")) for text, command in ideas)
    return printable("\n".join(f"- [ ] {in_line(text)}\n\n{command}\n" for text, command in blocks).rstrip())


def section_of(one: Experiment) -> str:
    """What is said of one experiment, in Markdown."""
    goal = in_line(one.goal) or "not given (`'run.goal=\"...\"'`)"
    moved = f", moved aside to {one.name}" if ".before-" in one.name else ""
    parts = [f"**Goal**: {goal}", f"**Status**: {in_line(standing(one) + moved)}"]
    if one.error:
        parts[-1] += f". {in_line(one.error)}"
    if one.began_with:
        parts.append(f"**Began with**: {in_line(one.began_with)}")
    if command := command_of(one):
        parts.append(f"**Config**:\n{fenced(command, 'bash')}")
    parts += [_difference(one), "\n".join(["**Results**:", *_results(one)]), "\n".join(_observations(one))]
    return printable("\n\n".join(parts))


def _difference(one: Experiment) -> str:
    if not one.parent:
        options = in_line(" ".join(chosen(one))) or "none"
        return f"**Difference** to the recipe's defaults ({in_line(one.recipe)}): {options}"
    rows = [f"- {in_line(key)}: {in_line(setting(old))} → {in_line(setting(new))}" for key, old, new in one.differences]
    return "\n".join([f"**Difference** to {in_line(one.parent)}:{'' if rows else ' none'}", *rows])


def _results(one: Experiment) -> list[str]:
    lines = [f"- Steps: {one.step:,}" + (f" of {one.steps:,}" if one.steps else "")]
    lines += [
        f"- {in_line(NAMES.get(name, name))}: {shown(name, value)}"
        for name, value in one.results.items()
        if name not in one.evaluations and name != "world_size"
    ]
    for suite, result in one.evaluations.items():
        if (value := one.results.get(suite)) is not None:
            error = result.get("standard_error")
            spread = f" ± {error:.4f}" if error else ""
            label = in_line(f"{suite} ({result.get('metric')}, step {result.get('step')})")
            lines.append(f"- {label}: {value:.4f}{spread}")
    return lines + ([f"- Hardware: {in_line(one.hardware)}"] if one.hardware else [])


def _observations(one: Experiment) -> list[str]:
    if not one.observations:
        return ["**Observations**: nothing was found."]
    lines = ["**Observations**:"]
    for seen in one.observations:
        times = f", {seen['times']} times" if seen.get("times", 1) > 1 else ""
        lines.append(in_line(f"- {seen['kind']} at step {seen['step']}{times}: {seen['message']} {seen['advice']}"))
    return lines
