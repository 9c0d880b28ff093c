"""`sample` as a user calls it: prompts, files, seeds, temperature, top-k."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from tests.processes import SMALL, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    runs = tmp_path_factory.mktemp("runs")
    code, output = train(*SMALL, "horizon.steps=4", runs=runs)
    assert code == 0, output
    return str(runs / "test")


def sample(run: str, *options: str) -> str:
    result = CliRunner().invoke(app, ["sample", run, "--max-new-tokens", "12", *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_file_and_a_prompt_say_the_same(run: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("First Citizen:\n", encoding="utf-8")
    expected = sample(run, "--prompt", "First Citizen:\n")
    assert expected.startswith("First Citizen:\n") and len(expected) > len("First Citizen:\n") + 6
    assert sample(run, "--prompt", f"FILE:{tmp_path}/prompt.txt") == expected
    assert sample(run, "--file", f"{tmp_path}/prompt.txt") == expected
    both = sample(run, "--prompt", "One", "--file", f"{tmp_path}/prompt.txt")
    assert both.startswith("One") and both.count("---") == 2 and "First Citizen:\n" in both
    with pytest.raises(UserError, match="absent"):
        sample(run, "--file", f"{tmp_path}/absent.txt")


def test_number_seed_temperature_and_top_k(run: str) -> None:
    three = sample(run, "--num-samples", "3").split("---\n")
    assert len(three) == 4 and len(set(three[:3])) == 3
    assert sample(run, "--num-samples", "3").split("---\n") == three
    assert sample(run, "--seed", "1") != sample(run)
    likeliest = sample(run, "--temperature", "0")
    assert likeliest == sample(run, "--top-k", "1", "--seed", "5") == sample(run, "--temperature", "0", "--seed", "7")
