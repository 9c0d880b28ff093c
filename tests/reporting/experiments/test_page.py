"""experiments.md around what people write in it."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from markdown_it import MarkdownIt

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.findings import Finding, announce
from nanochat_pl.core.paths import runs_root
from nanochat_pl.reporting.experiments import ledger
from nanochat_pl.reporting.experiments import page as pages
from nanochat_pl.reporting.experiments.experiment import Experiment
from nanochat_pl.reporting.experiments.ledger import LockedError, keep_experiments, ledger_of, read_experiments
from nanochat_pl.reporting.experiments.page import markdown_beside, write_markdown
from tests.reporting.experiments.written import write_run
from tests.reporting.written_runs import HOSTILE


@pytest.fixture
def page() -> Path:
    (runs_root().parent / ".claude").mkdir()
    path = markdown_beside(runs_root())
    assert path is not None
    return path


def write(path: Path) -> Path | None:
    return write_markdown(path, runs_root())


def test_without_a_claude_folder_beside_the_runs_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    assert markdown_beside(runs_root()) is None
    (runs_root().parent / ".claude").mkdir()
    monkeypatch.setenv("HOME", str(runs_root().parent))
    assert markdown_beside(runs_root()) is None, "that of the home folder is the assistant's own"


def test_what_it_says(page: Path) -> None:
    run = write_run("a", day=1, goal="Does it learn?", val_bpb=1.5)
    announce(run, Finding("loss_spike", 5, "The loss jumped.", "Look at the batch."))
    write_run("b", day=2, depth=6, status="failed", error="KeyError: 'x'", val_bpb=1.0)
    write(page)
    text = page.read_text()
    for said in (
        "| a/base | 2026-01-01 | finished | tiny, model.depth=4 | 3.0000 | 1.5000 | - | loss_spike; Does it learn? |",
        "| b/base | 2026-01-02 | failed | tiny, model.depth=6 | 3.0000 | 1.0000 | - | at step 8 of 24 |",
        "In all of them: seed=42", "- **Run**: a/base (base)", "## Best result", "- [ ] Finish b/base",
        "### a/base (2026-01-01)", "**Goal**: Does it learn?", "**Goal**: not given",
        "python train.py model.depth=6 seed=42 run.name=b", "to the recipe's defaults (tiny): model.depth=4",
        "**Difference** to a/base:\n- model.depth: 4 → 6", "**Status**: failed at step 8 of 24. KeyError: 'x'",
        "- Validation bits per byte: 1.5000", "- Training time: 1 min 30 s", "- Hardware: 2 x Abacus 3000, float32",
        "loss_spike at step 5: The loss jumped. Look at the batch.", "**Observations**: nothing was found.",
    ):  # fmt: skip
        assert said in text, said
    assert text.index("### a/base") < text.index("### b/base") < text.index("<!-- tracker:new -->")
    headings = [token.content for token in MarkdownIt().enable("table").parse(text) if token.type == "inline"]
    assert {"Summary", "Best result", "Things to try", "Experiments"} <= set(headings)


def test_hand_edits_stay_byte_for_byte(page: Path) -> None:
    write_run("a", day=1)
    write(page)
    written = page.read_bytes()
    note, section = b"\nI think that is \xff\xfe noise.\r\n\r\n", b"## My plans\r\n\tall of them \xe2\x82\xac"
    end = written.index(b"-->", written.index(b"tracker:end run:a/base")) + 4
    task = written.replace(b"## Things to try\n", b"## Things to try\n- [x] sleep\n")
    end += len(task) - len(written)
    page.write_bytes(task[:end] + note + task[end:] + section)
    write_run("b", day=2, depth=6)
    assert write(page) is None
    after = page.read_bytes()
    assert b"## Things to try\n- [x] sleep\n" in after and after.endswith(section)
    assert after.index(b"end run:a/base") < after.index(note) < after.index(b"### b/base") < after.index(b"tracker:new")
    assert write(page) is None and page.read_bytes() == after


def test_a_file_of_somebodys_own_gets_the_parts_behind_its_text(page: Path) -> None:
    own = "# My experiments\n\n| Run | Loss |\n|---|---|\n| baseline | 2.65 |"
    page.write_text(own)
    write_run("a")
    write(page)
    text = page.read_text()
    assert text.startswith(f"{own}\n\n## Summary\n") and "### a/base" in text


def test_parts_that_somebody_took_out_stay_out(page: Path) -> None:
    write_run("a")
    write(page)
    start, _, rest = page.read_text().partition("## Best result")
    page.write_text(start + rest[rest.index("## Things to try") :])
    write_run("b", day=2)
    write(page)
    assert "Best result" not in page.read_text() and "### b/base" in page.read_text()


def test_what_was_written_inside_of_a_part_is_in_a_copy(page: Path) -> None:
    write_run("a")
    write(page)
    edited = page.read_text().replace("nothing was found.", "I have seen something.")
    page.write_text(edited)
    write_run("b", day=2)
    copy = write(page)
    assert copy is not None and copy.read_text() == edited and copy.parent == page.parent
    assert "I have seen" not in page.read_text()
    assert write(page) is None


def test_notes_go_with_a_run_that_is_moved_aside(page: Path) -> None:
    run = write_run("a", day=1)
    write(page)
    page.write_text(page.read_text().replace("<!-- tracker:new -->", "Of the first.\n\n<!-- tracker:new -->"))
    run.move_aside()
    write_run("a", day=2, depth=6)
    write(page)
    text = page.read_text()
    assert text.index("moved aside to a/base.before-") < text.index("Of the first.") < text.index("a/base (2026-01-02)")
    assert text.count("### a/base") == 2


def test_of_several_who_write_at_once_nothing_is_lost(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first are the slowest between reading and writing."""
    page.write_text("# Mine\n")
    pauses = iter([0.3, 0.2, 0.1, *[0.0] * 20])

    def read_slowly(*arguments: Any) -> list[Experiment]:
        experiments = read_experiments(*arguments)
        time.sleep(next(pauses))
        return experiments

    monkeypatch.setattr(pages, "read_experiments", read_slowly)

    def train(name: str) -> None:
        write_run(name)
        keep_experiments(runs_root())
        write(page)

    names = [f"run{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(train, names))
    text = page.read_text()
    assert text.startswith("# Mine\n") and all(text.count(f"\n### {name}/base") == 1 for name in names)
    assert all(text.count(f"\n| {name}/base |") == 1 for name in names)
    assert len(ledger_of(runs_root()).read_text().splitlines()) == 4


def test_broken_marks_leave_the_file_alone(page: Path) -> None:
    write_run("a")
    write(page)
    broken = page.read_text().replace("<!-- tracker:end best -->\n", "mine\n")
    page.write_text(broken)
    write_run("b", day=2)
    with pytest.raises(UserError, match=r"left as it is: .* line \d+ begins 'ideas' before 'best'"):
        write(page)
    assert page.read_text() == broken


def test_a_file_that_is_locked_or_read_only_is_left_alone(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.1)
    write_run("a")
    write(page)
    before = page.read_text()
    write_run("b", day=2)
    with FileLock(f"{page}.lock"), pytest.raises(LockedError):
        write(page)
    page.chmod(0o444)
    with pytest.raises(UserError, match="read-only"):
        write(page)
    assert page.read_text() == before


def test_nothing_that_is_told_is_markup_or_a_mark(page: Path) -> None:
    run = write_run("a", goal=f"{HOSTILE}\n<!-- tracker:end summary -->", status="failed", error=HOSTILE)
    announce(run, Finding("loss_spike", 5, HOSTILE, "<!-- tracker:begin x -->"))
    write(page)
    before = page.read_text()
    assert "<script>" not in before and "\x1b" not in before and "\u202e" in before
    write(page)
    assert page.read_text() == before
