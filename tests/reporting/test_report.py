"""What a report says of runs that ended well, badly, or halfway, and that nothing in it can act."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from nanochat_pl.core.errors import UserError
from nanochat_pl.core.figures import duration, number
from nanochat_pl.core.paths import runs_root, write_text
from nanochat_pl.core.run_folder import RunFolder, read_object
from nanochat_pl.evals.scores import SuiteScore
from nanochat_pl.reporting.contents import build_report
from nanochat_pl.reporting.evaluations import tables_of_evaluations
from nanochat_pl.reporting.page import html_of, markdown_of
from nanochat_pl.reporting.pictures import MOST_POINTS, draw, draw_metrics, thinned
from nanochat_pl.reporting.records import load_run
from tests.reporting.written_runs import HOSTILE, evaluate, suite, write_stage


class Page(HTMLParser):
    """The tags, the addresses and the text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def page_of(name: str, **options: float) -> Page:
    return Page(html_of(build_report(load_run(name), **options)))


def test_what_was_trained_on_what() -> None:
    write_stage(
        "one", "base", curves=True, data={"_target_": "nanochat_pl.data.specs.TinyDataSpec", "num_documents": 7}
    )
    tasks = [{"name": "tiny_sums"}, {"name": "custom", "path": "chats.jsonl", "stop": 200, "epochs": 2.0}]
    write_stage(
        "one", "sft", curves=True, data={"_target_": "x.ChatDataSpec", "tasks": tasks, "val_tasks": [{"name": "mmlu"}]}
    )
    html = html_of(build_report(load_run("one")))
    page, ids = Page(html), re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids)), "no picture takes its parts from another one"
    for said in (
        "Stages base and sft: 1.31M parameters, 205k tokens, 1 h 00 min on 2 x Abacus 3000",
        "tiny, num_documents=7", "tiny_sums, custom chats.jsonl (first 200) x 2", "mmlu", "width 128", "1,310,850",
        "630 MB", "1,000", "30 min 00 s", "Hello -> <script>alert(1)</script>", "its second line",
        "python train.py stage=sft 'tag=a b'", "git checkout abc123", "torch 9",
    ):  # fmt: skip
        assert said in page.text, said
    assert "early" not in page.text, "only the last samples"
    assert page.text.index("base") < page.text.index("sft")
    assert page.tags.count("figure") == 6, "loss, bits per byte and speed of both stages"


def test_a_page_asks_for_nothing_and_runs_nothing() -> None:
    run = write_stage(f"x{HOSTILE[:24].replace('/', '')}", "base", recipe_name=HOSTILE)
    evaluate(run, 50, suite(3, labels=(HOSTILE,), name=HOSTILE))
    page = page_of(run.path.parent.name)
    assert HOSTILE[:25] in page.text
    assert not {"script", "iframe", "object", "img", "image"} & set(page.tags)
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    assert "\x1b" not in page.text
    rendered = Page(MarkdownIt("commonmark").enable("table").render(markdown_of(build_report(load_run(
        run.path.parent.name)), ".")))  # fmt: skip
    assert "script" not in rendered.tags and rendered.tags.count("img") == 0
    assert "<script>" in rendered.text


def test_markdown_shows_the_loss_picture_from_where_it_lies() -> None:
    run = write_stage("one", "base", curves=True)
    run.loss_picture.write_bytes(b"")
    text = markdown_of(build_report(load_run("one")), "../runs/a b")
    assert "![curves of base](../runs/a%20b/base/loss.png)" in text
    rendered = MarkdownIt("commonmark").enable("table").render(text)
    assert rendered.count("<table>") == 3, "overview, validations, cost"


@pytest.mark.parametrize("status", ["failed", "diverged", "interrupted", "running"])
def test_a_stage_that_did_not_finish_says_so(status: str) -> None:
    write_stage("bad", "base")
    write_stage("bad", "sft", status)
    page = page_of("bad")
    assert f"sft: {status}. 50 of 100 steps are done." in " ".join(page.text.split())
    assert "RuntimeError: the disk <broke>" in page.text
    markdown = markdown_of(build_report(load_run("bad")), ".")
    assert f"**sft: {status}.** 50 of 100 steps" in markdown and "<broke>" in markdown


def test_evaluations_before_and_after_each_stage() -> None:
    base, sft, rl = (write_stage("four", stage) for stage in ("base", "sft", "rl"))
    for step, right in ((0, 1), (20, 5), (50, 10)):
        evaluate(base, step, suite(right, 2 * right))
    evaluate(sft, 0, suite(10, 20))  # the same model as after base
    evaluate(sft, 50, suite(90, 21))
    evaluate(rl, 40, suite(95, 1))
    (table,) = tables_of_evaluations(load_run("four").stages)
    assert table.head == ["task", "before base", "after base", "after sft", "rl at step 40"]
    sums, letters, own = table.rows
    assert [cell.text for cell in sums] == ["sums", "1.0 ± 1.6", "10.0 ± 3.1", "90.0 ± 3.1", "95.0 ± 2.5"]
    assert [cell.note for cell in sums] == ["100 questions", "", "+9.0", "+80.0", "+5.0"]
    assert [cell.tone for cell in sums] == ["", "", "good", "good", ""], "a change within two standard errors is none"
    assert letters[3].tone == "" and letters[4].tone == "bad"
    assert own[0] == ("mean accuracy", "200 questions", "") and own[3].text == "55.5 ± 1.0"
    assert page_of("four").text.count("tiny in base") == 1, "three evaluations are a curve"


def test_different_numbers_of_questions_do_not_compare() -> None:
    base, mid, sft = (write_stage("three", stage) for stage in ("base", "mid", "sft"))
    evaluate(base, 50, suite(8, 0, count=8))
    evaluate(mid, 50, suite(50, 50))
    evaluate(sft, 50, suite(90, 51))
    (table,) = tables_of_evaluations(load_run("three").stages)
    for name, questions, row in zip(("sums", "letters", "mean accuracy"), (100, 100, 200), table.rows, strict=True):
        assert row[0].text == name and row[0].note == ""
        assert (row[1].note, row[2].note) == (f"{8 * questions // 100} questions", f"{questions} questions")
        assert row[3].note.endswith(f", {questions} questions") and row[1].tone == row[2].tone == ""
    assert table.rows[0][3].note.startswith("+40.0, ") and table.rows[0][3].tone == "good"


def test_what_a_stage_began_with_and_the_commands_behind_its_figures() -> None:
    base, sft = write_stage("one", "base"), write_stage("one", "sft")
    parent = {"path": "runs/one/base/model", "stage": "base", "step": 1500}
    write_text(sft.resolved, json.dumps(read_object(sft.resolved) | {"parent": parent}))
    command = ["-m", "nanochat_pl", "eval", "one/sft", "--suite", "tiny"]
    evaluate(sft, 50, suite(1, 2), command=command, git_commit="def456")
    evaluate(base, 50, suite(1, 2))
    report = build_report(load_run("one"))
    facts = [dict(section.facts) for section in report.stages]
    assert "begins with" not in facts[0]
    assert facts[1]["begins with"] == "base at step 1,500: runs/one/base/model"
    assert [command.split(" ", 2)[:2] for command in report.commands[:2]] == [
        ["git", "checkout"],
        ["python", "train.py"],
    ]
    assert report.commands[-2:] == ["git checkout def456", "python -m nanochat_pl eval one/sft --suite tiny"]
    assert len(report.commands) == 5


def test_a_stage_without_tokens_has_none_of_their_figures() -> None:
    write_stage("one", "sft")
    rl = write_stage("one", "rl")
    kept = {key: value for key, value in rl.read_summary().items() if key not in ("tokens", "val_bpb")}
    write_text(rl.summary, json.dumps(kept))
    write_text(rl.metrics, "step,val/pass@1\n10,0.25\n20,0.5\n")
    write_text(rl.resolved, json.dumps({"steps": 50, "total_batch_tokens": 16384, "rows_per_step": 128}))
    report = build_report(load_run("one"))
    sft_row, rl_row = ([cell.text for cell in row] for row in report.overview.rows)
    assert sft_row[3:] == ["102k", "30 min 00 s", "–", "630 MB", "0.100", "1.500 bpb"]
    assert rl_row[3:] == ["–", "30 min 00 s", "–", "630 MB", "–", "0.500 pass@1"]
    assert ", 102k tokens, " in report.lead and ("batch", "128 answers a step") in report.stages[1].facts


def test_samples_cannot_be_forged_and_show_their_prompts() -> None:
    run = write_stage("one", "base")
    (section,) = build_report(load_run("one")).stages
    assert section.samples_step == 50 and [sample.prompt for sample in section.samples] == ["Hello", ""]
    assert section.samples[0].text.endswith("its second line\n[step 50] forged\n[step 99] too")
    text = run.samples.read_text()
    run.drop_samples(after=50)
    assert run.samples.read_text() == text
    run.drop_samples(after=49)
    assert run.read_samples() == [(10, "early")]


def test_single_figures_share_a_table_and_bits_of_different_data_do_not_compare() -> None:
    base, sft = write_stage("two", "base"), write_stage("two", "sft")
    for run, bits, right in ((base, 1.5, 10), (sft, 1.2, 60)):
        evaluate(run, 50, SuiteScore("bpb", "bits per byte", bits, 0.01))
        evaluate(run, 50, suite(right, labels=("gsm8k",), name="gsm8k"))
    (table,) = tables_of_evaluations(load_run("two").stages)
    assert [row[0].text for row in table.rows] == ["bits per byte", "gsm8k"]
    assert [row[2].note for row in table.rows] == ["", "+50.0"]
    assert [row[2].tone for row in table.rows] == ["", "good"]


def test_cost() -> None:
    write_stage("one", "base")
    write_stage("one", "sft")
    rows = [[cell.text for cell in row] for row in build_report(load_run("one")).cost.rows]
    assert rows[-1] == ["all", "1 h 00 min", "", "2.00"], "two devices for half an hour, twice"
    rows = [[cell.text for cell in row] for row in build_report(load_run("one"), 2.5).cost.rows]
    assert [row[-1] for row in rows] == ["2.50", "2.50", "5.00"]
    assert [row[-1].text for row in build_report(load_run("one"), 0.0).cost.rows] == ["0.00"] * 3


def test_broken_and_missing_records_are_left_out() -> None:
    run = write_stage("torn", "base")
    for path in (run.config, run.resolved, run.evaluations, run.samples, run.plan):
        path.write_bytes(b'{"a": \xff[')
    with run.invocations.open("a") as file:
        file.write('{"command": ["tra')
    assert "python train.py stage=base" in page_of("torn").text
    empty = RunFolder.of("empty", "mid")
    empty.write_summary(status="failed")
    page = page_of("empty")
    assert "mid: failed. 0 steps are done." in " ".join(page.text.split())
    assert "figure" not in page.tags


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.csv", b"step,train/loss,val/bpb\n1,2.0,\n2,1.0,\n3,0.\xff\n4,1e,\n5"),
        ("summary.json", b"[1]"),
        ("summary.json", b'{"step": "3", "tokens": [], "wall_seconds": {}, "world_size": null, "data": [1]}'),
        ("evaluations.json", b"[1]"),
        ("evaluations.json", b'{"tiny": {"1": 3, "x": {}}, "core": [], "chat": {"5": {"tasks": 3, "value": NaN}}}'),
        ("config.yaml", b"{stage: sft, data: [1], callbacks: {samples: 3}}"),
        ("config.yaml", b"data: {tasks: 3, task: 4, val_tasks: [{name: a, start: x, stop: y, epochs: z}]}"),
        ("resolved.json", b'{"steps": "x", "model": 3, "parent": 4, "hardware": [], "total_batch_tokens": null}'),
        ("invocations.jsonl", b'[1]\n{"versions": [1], "command": 3, "time": 4}\n{"command": ["train.py"]}\n{"a'),
    ],
)
def test_a_damaged_record_is_left_out(file: str, text: bytes) -> None:
    run = write_stage("torn", "base")
    evaluate(run, 50, suite(3, 4))
    (run.path / file).write_bytes(text)
    assert "torn" in page_of("torn").text and markdown_of(build_report(load_run("torn")), ".")
    if file == "metrics.csv":
        assert run.read_metrics() == {"train/loss": [(1, 2.0), (2, 1.0)]}


def test_a_suite_of_many_tasks_without_a_figure() -> None:
    run = write_stage("one", "base")
    score = suite(*range(7), labels=tuple("abcdefg")).as_dict()
    for step in (10, 20, 50):
        run.record_evaluation("core", step, {key: value for key, value in score.items() if key != "value"})
    assert "core" in page_of("one").text


def test_a_name_with_dollars_is_no_formula() -> None:
    picture = draw("title", "unit", {"$_{$": [(1, 2.0), (2, 3.0)], "$x$": [(1, 1.0)]}, "salt")
    assert "$_{$" in picture.svg and "$x$" in picture.svg


def test_an_unknown_name_is_answered_with_those_there_are() -> None:
    with pytest.raises(UserError, match=r"There are none; `python train.py` makes one"):
        load_run("x")
    write_stage("tiny", "base")
    write_stage("tiny,seed=2", "base")
    (runs_root() / "sweeps").mkdir()
    with pytest.raises(UserError, match=r"no run 'tinny' .*did you mean 'tiny'\? Runs: [^.]*tiny,seed=2") as error:
        load_run("tinny")
    assert "sweeps" not in str(error.value)
    with pytest.raises(UserError):
        load_run("")


def test_a_run_by_its_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = write_stage("one", "base")
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path / "elsewhere"))
    assert load_run(str(run.path.parent)).name == load_run(str(run.path)).name == "one"


def test_what_is_not_finite_is_a_gap() -> None:
    series = {"train/loss": [(1, 1.0), (2, math.inf), (3, 2.0), (4, math.nan)], "val/bpb": [(1, math.nan)] * 2}
    assert [picture.svg.count("<svg") for picture in draw_metrics(series, "base")] == [1, 1]


def test_long_curves_are_thinned() -> None:
    points = thinned([(step, float(step % 2)) for step in range(100_000)])
    assert len(points) <= MOST_POINTS and {y for _, y in points} == {0.5}
    assert thinned([(3, 1.0)]) == [(3.0, 1.0)]


def test_numbers_are_readable() -> None:
    assert [number(x) for x in (0, 9_999, 12_345, 999_999, 1_310_850, 2.5e9)] == [
        "0", "9,999", "12.3k", "1M", "1.31M", "2.5B",
    ]  # fmt: skip
    assert [duration(s) for s in (0.4, 59.9, 61, 3_599.9, 360_000)] == ["0 s", "1 min 00 s", "1 min 01 s", "1 h 00 min",
                                                                         "100 h 00 min"]  # fmt: skip
