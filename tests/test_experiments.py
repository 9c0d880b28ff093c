"""Every experiment composes and plans as it stands; those that begin with nothing train two steps, with sizes cut by
overrides alone.
"""

import json
import re
from pathlib import Path

import pytest

from nanochat_pl.config.compose import CONF_FOLDER, compose
from nanochat_pl.config.specs import Specs
from tests.forks import run_program
from tests.processes import environment_of, losses

FILES = {path.stem: path.read_text() for path in sorted((CONF_FOLDER / "experiment").glob("*.yaml"))}
FROM_NOTHING = [name for name, text in FILES.items() if "init_from" not in text and "- eval_gpt2" not in text]
SIZES = (
    "model.depth=2", "model.n_embd=32", "model.head_dim=16", "horizon.steps=2", "horizon.epochs=null",
    "horizon.flops=null", "data.streams=4", "data.buffer_documents=8", "data.val_tokens=512",
    "trainer.validate_every_n_steps=1", "callbacks.metrics.every_n_steps=1", "callbacks.evaluate.suites=[]",
    "callbacks.samples=null", "callbacks.loss_picture=null", "hw=cpu", "hw.threads=1", "hw.precision=float32",
    "hydra.mode=RUN",
)  # fmt: skip
"""What every model and data set can be cut by."""
HEADER = r"# @package _global_\n(# .*\n|#\n)+" + "".join(
    rf"#   {name:<10}\S.*\n(# {{13}}\S.*\n)*" for name in ("expected", "time", "hardware")
)
"""What an experiment is, and what comes of it, how long it takes, and on what."""
ROWS = ("model.sequence_len=40", "horizon.total_batch_tokens=160", "tokenizer=byte")


ALL_OF_THEM = """
import json, sys, train
for name, arguments in json.loads(sys.argv[1]).items():
    sys.argv = ["train.py", *arguments]
    print(f"\\n{name}:", file=sys.stderr)
    try:
        code = train.main()
    except SystemExit as error:
        code = error.code
    print("end", code, file=sys.stderr)
"""


@pytest.mark.parametrize("name", FILES)
def test_it_plans_and_says_what_to_expect(name: str) -> None:
    specs = Specs.of(compose([f"experiment={name}"]))
    plan = specs.plan(getattr(specs.tokenizer, "vocab_size", None) or 300, specs.hw.assume())
    assert plan.horizon.steps >= 1 and plan.seconds > 0 and "parameters" in plan.text()
    assert plan.rows_per_step * plan.model.sequence_len == plan.horizon.total_batch_tokens
    assert re.fullmatch(HEADER, FILES[name].split("defaults:")[0])


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a parquet file, as it may stand for any data set of the hub."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    folder = tmp_path_factory.mktemp("documents")
    texts = [f"The {n}th text. " * (1 + n % 7) for n in range(400)]
    parquet.write_table(pa.table({"text": texts, "id": list(map(str, range(400)))}), folder / "all.parquet")
    (folder / "all.txt").write_text("\n\n".join(texts))
    return folder


def cuts(name: str, documents: Path) -> list[str]:
    """The overrides that this experiment is cut by."""
    config = compose([f"experiment={name}"])
    made_up = config.data._target_.endswith(("ModularDataSpec", "AdditionDataSpec"))
    own = [*SIZES, *(() if made_up else ROWS)]
    if made_up:
        own += [f"horizon.total_batch_tokens={4 * config.model.sequence_len}", "data.val_tokens=null"]
    if "train_fraction" in config.data:
        own.append("data.train_fraction=0.98")
    if "val_equations" in config.data:
        own.append("data.val_equations=20")
    if "size" in config.model:
        own.append("model.size=null")
    if config.data._target_.endswith("HubDataSpec"):
        own += [f"data.path={documents}", "data.config=null", "data.val_fraction=0.2", "data.val_files=null"]
    if config.data._target_.endswith("ShakespeareDataSpec"):
        own.append(f"data.path={documents / 'all.txt'}")
    if config.schedule._target_.endswith(".ScheduleSpec"):
        own.append("schedule.warmup_steps=1")
    return own


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, documents: Path) -> Path:
    """The runs of all experiments, one after the other in one process, with what each said."""
    runs = tmp_path_factory.mktemp("runs")
    commands = {name: [f"experiment={name}", *cuts(name, documents), f"run.name={name}"] for name in FROM_NOTHING}
    done = run_program("-c", ALL_OF_THEM, json.dumps(commands), environment=environment_of(runs), timeout=1800)
    (runs / "output.txt").write_text(done.stderr)
    return runs


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FROM_NOTHING)
def test_it_trains_two_steps(name: str, runs: Path) -> None:
    said, _, code = (runs / "output.txt").read_text().rpartition(f"\n{name}:")[2].partition("\nend ")
    assert code.startswith("0\n"), said
    summary = json.loads((runs / name / "base/summary.json").read_text())
    assert summary["status"] == "finished" and summary["step"] == 2, said


@pytest.mark.slow
def test_answers_are_counted_and_drawn(runs: Path) -> None:
    for name in ("grokking", "arithmetic"):
        rows = losses(runs / name / "base")
        assert len(rows) == 2 and all(0 <= float(row["val/accuracy"]) <= 1 for row in rows.values())
        assert (runs / name / "base/accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert {"val/accuracy_2", "val/accuracy_7", "train/accuracy"} <= rows["2"].keys()  # of sums, by their length


def test_the_pipelines_are_sweeps_of_their_own() -> None:
    from hydra import compose as compose_all
    from hydra import initialize_config_dir

    swept = {"speedrun": {"stage": "base,mid,sft"}, "miniseries": {"model.depth"}, "scaling_laws": {"horizon.flops"}}
    for name, expected in swept.items():
        with initialize_config_dir(str(CONF_FOLDER), version_base="1.3"):
            hydra = compose_all("train", [f"experiment={name}"], return_hydra_config=True).hydra
        assert hydra.mode.name == "MULTIRUN" and {*hydra.sweeper.params} >= {*expected}
