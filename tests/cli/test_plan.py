"""`plan` as a user calls it: anywhere, for any chip."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import UserError
from nanochat_pl.planning.prices import usual_offer


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def planned(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_profile_is_planned_for_anywhere_with_its_price() -> None:
    text = planned("+hw=h100x8", "model.depth=8", "hw.tokens_per_device=4096", "--price-per-hour", "3")
    for words in (
        "8 layers, width 512",
        "8 x H100, bfloat16",
        "2 rows x 8 device(s)",
        "43% of the peak",
        "at 3 a device",
    ):
        assert words in text
    work = next(line for line in text.splitlines() if " work " in line)
    seconds, cost = (float(work.split(mark)[1].split()[0].replace(",", "")) for mark in ("about ", " s, "))
    assert cost == pytest.approx(3 * 8 * seconds / 3600, rel=0.1, abs=0.02)


def test_without_a_price_the_rent_of_a_gpu_is_told_with_its_date() -> None:
    options = ["+hw=h100x8", "model.depth=8", "hw.tokens_per_device=4096"]
    text = planned(*options)
    [line] = [line for line in text.splitlines() if line.lstrip().startswith("rent")]
    offer = usual_offer("H100")
    assert offer is not None
    assert f"at ${offer.dollars:.2f} a device and hour ({offer.provider}, {offer.date}; prices age" in line
    priced = planned(*options, "--price-per-hour", str(offer.dollars))
    [work] = [line for line in priced.splitlines() if line.lstrip().startswith("work")]
    assert line.split("about $")[1].split()[0] == work.split(" at ")[0].split()[-1]
    assert "rent" not in priced
    assert "rent" not in planned("hw=cpu", "model.depth=2")


def test_a_warmup_as_long_as_the_run_is_noted() -> None:
    said = "schedule.warmup_steps=100 is not less than the run's 100 steps"
    assert said in " ".join(planned("hw=cpu", "schedule=cosine", "horizon.steps=100").split())
    assert "warmup_steps" not in planned("hw=cpu", "schedule=cosine", "horizon.steps=101")


def test_a_later_stage_is_planned_before_the_earlier_one_is_trained() -> None:
    text = planned("+hw=h100x1", "stage=sft", "model.depth=8", "hw.tokens_per_device=4096")
    assert "8 layers" in text and "horizon.epochs=1 takes" in text
    with pytest.raises(UserError, match="nowhere"):
        planned("hw=h100x1", "stage=sft", "stage.init_from=nowhere")


def test_the_laws_by_depth_are_a_table_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "laws.png"
    text = planned("+hw=h100x8", "--depths", "4-8", "--png", str(picture), "--price-per-hour", "2")
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:2] for row in rows] == [["4", "256"], ["6", "384"], ["8", "512"]]
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 10_000
    assert "cost" in text and "8 x H100" in text
    assert "prices age" not in text and "prices age" in planned("+hw=h100x8", "--depths", "4")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--depths", "8-4"], "--depths is '8-4'"),
        (["--depths", "four"], "4-48"),
        (["--depths", "0,4"], "from 1 to"),
        (["--png", "x.png"], "--png draws what --depths asks for"),
        (["hw.chip=H100s"], "did you mean 'H100'"),
        (["hw=h100x9"], "did you mean 'h100x8'"),
        (["hw=h100x8", "hw.devices=3", "horizon.total_batch_tokens=61440"], "data.streams=16 is not a multiple of 3"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError) as raised:
        planned(*arguments)
    assert words in str(raised.value)
