"""`video` as a user calls it: mistakes, the JSON, stills of all compositions, and what stands in their pages."""

import base64
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from nanochat_pl.cli import app
from nanochat_pl.core.errors import MachineError, UserError
from nanochat_pl.video import remotion
from nanochat_pl.video.scene import COMPOSITIONS, read_scene, write_scene
from tests.reporting.written_sweeps import write_sweep
from tests.video.pages import served, texts_of_last_frame

BROWSER = next((found for name in remotion.BROWSERS if (found := shutil.which(name))), None)
MISSING = (
    "node is not installed" if shutil.which("node") is None else
    "the packages of remotion/ are not installed (make remotion/node_modules/installed)"
    if not (remotion.FOLDER / "node_modules" / "installed").exists() else
    "chromium is not installed" if BROWSER is None else ""
)  # fmt: skip
needs_remotion = pytest.mark.skipif(bool(MISSING), reason=f"videos are not drawn: {MISSING}")


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["video", *arguments])


def refusal(*arguments: str) -> str:
    """What a mistaken command is told."""
    result = call(*arguments)
    assert isinstance(result.exception, UserError), result.output
    return str(result.exception)


def test_mistakes(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'loss'" in refusal("los", "test")
    assert "no run 'tset'" in refusal("loss", "tset")
    assert "no model" in refusal("attention", "tset")
    assert "no folder" in refusal("scaling", "tset")
    assert ".mp4 or .webm" in refusal("loss", "test", "--out", "x.avi")
    assert "no folder" in refusal("loss", "test", "--out", "nowhere/x.mp4")
    with tempfile.TemporaryDirectory(suffix=".png") as folder:
        assert "is a folder" in refusal("pipeline", "test", "--flat", "--out", folder)
    assert "--prompt is for" in refusal("loss", "test", "--prompt", "Hello")
    assert "context has only 32" in refusal("attention", "test", "--prompt", "word " * 60)
    assert "is for a still" in refusal("loss", "test", "--frame", "3")
    assert "Remotion draws" in refusal("loss", "test", "--frame", "3", "--data-only")
    assert "one of them" in refusal("loss", "test", "--flat", "--data-only")
    shutil.copytree(small_run, small_run.parent / "bare", ignore=shutil.ignore_patterns("model", "checkpoints"))
    for name in ("attention", "architecture"):
        assert "no model" in refusal(name, "bare")
    assert "no tokenizer" in refusal("pipeline", "bare")
    assert not list(tmp_path.iterdir())


def test_json_is_written_and_taken_back(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("architecture", "attention", "loss", "pipeline"):
        result = call(name, "test", "--data-only")
        assert result.exit_code == 0, result.output
        assert result.output.strip() == f"{name}.json"
        assert read_scene(tmp_path / f"{name}.json", name)["kind"] == name
    before = Path("loss.json").read_bytes()
    assert call("loss", "loss.json", "--data-only", "--out", "again.json").exit_code == 0
    assert Path("again.json").read_bytes() == before
    Path("old.json").write_text(before.decode().replace('"version":2', '"version":9'))
    assert "version 9" in refusal("loss", "old.json")
    assert "figures of `loss`" in refusal("attention", "loss.json")
    for name, lacking in (("attention", "layers"), ("pipeline", "rows")):
        content = read_scene(Path(f"{name}.json"), name)
        write_scene({key: value for key, value in content.items() if key != lacking}, Path("lacking.json"))
        assert f"'{lacking}'" in refusal(name, "lacking.json", "--flat")


def test_data_that_were_changed_since_are_no_longer_the_runs(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "changed"
    shutil.copytree(small_run, run)
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    out = ("--data-only", "--out", str(tmp_path / "x.json"))
    assert call("pipeline", "changed", *out).exit_code == 0
    config = yaml.safe_load((run / "base" / "config.yaml").read_text())
    config["data"]["num_documents"] -= 1
    (run / "base" / "config.yaml").write_text(yaml.safe_dump(config))
    assert "were changed since" in refusal("pipeline", "changed", *out)
    shutil.rmtree(run / "base" / "checkpoints")
    assert call("pipeline", "changed", *out).exit_code == 0


@pytest.mark.parametrize("name", ["attention", "pipeline"])
def test_flat_pictures_need_no_node(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from matplotlib.image import imread

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert call(name, "test", "--flat").exit_code == 0
    pixels = imread(f"{name}.png")[..., :3]
    assert min(pixels.shape[:2]) > 200 and len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    assert "attention and pipeline" in refusal("loss", "test", "--flat")


def test_a_report_shows_the_flat_pictures_of_its_run(small_run: Path, tmp_path: Path) -> None:
    assert call("pipeline", "test", "--flat", "--out", str(small_run / "pipeline.png")).exit_code == 0
    assert CliRunner().invoke(app, ["report", "test", "--out", str(tmp_path)]).exit_code == 0
    data = base64.b64encode((small_run / "pipeline.png").read_bytes()).decode()
    assert f'src="data:image/png;base64,{data}"' in (tmp_path / "report.html").read_text()
    assert "/pipeline.png)" in (tmp_path / "report.md").read_text()
    (small_run / "pipeline.png").unlink()


def test_what_is_missing_is_named(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    assert "apt install nodejs npm" in refusal("loss", "test")
    node = tmp_path / "bin" / "node"
    node.parent.mkdir()
    node.write_text("#!/bin/sh\necho v18.20.4\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", str(node.parent))
    assert "'v18.20.4'" in refusal("loss", "test")
    node.write_text("#!/bin/sh\necho v20.1.0\n")
    with pytest.raises(UserError, match="npm ci"):
        remotion.find_program(_folder(tmp_path / "remotion"))
    with pytest.raises(UserError, match="Clone the repository"):
        remotion.find_program(tmp_path)
    monkeypatch.setattr(remotion, "BROWSER_OF_MACS", "nowhere")
    with pytest.raises(UserError, match="apt install chromium"):
        remotion.find_browser()
    monkeypatch.setenv("REMOTION_BROWSER", "/nowhere/chrome")
    with pytest.raises(UserError, match="/nowhere/chrome"):
        remotion.find_browser()


def _folder(path: Path) -> Path:
    path.mkdir()
    (path / "package.json").write_text("{}")
    return path


DRAWING = """#!/bin/sh
[ "$1" = bundle ] && { mkdir "${4#--out-dir=}" && touch "${4#--out-dir=}/index.html"; exit; }
echo drawn > "$4"
"$PYTHON" -c 'import json, sys
told = json.load(open(sys.argv[1].partition("=")[2]))["subtitles"]
with open(f"out/Mine/{told}", "w") as file:
    file.write("WEBVTT")' "$5"
exit $CODE
"""
"""Stands for Remotion: draws a word, and writes subtitles to where it is told."""


def test_subtitles_stand_beside_a_video_and_what_fails_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path / "remotion")
    (folder / "src").mkdir()
    (folder / "package-lock.json").touch()
    (folder / "out" / "Mine").mkdir(parents=True)
    program = folder / "node_modules" / ".bin" / "remotion"
    program.parent.mkdir(parents=True)
    program.write_text(DRAWING)
    program.chmod(0o755)
    node = tmp_path / "bin" / "node"
    node.parent.mkdir()
    node.write_text("#!/bin/sh\necho v20.1.0\n")
    node.chmod(0o755)
    monkeypatch.setattr(remotion, "FOLDER", folder)
    for name, value in (("PATH", f"{node.parent}:{os.environ['PATH']}"), ("PYTHON", sys.executable), ("CODE", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REMOTION_BROWSER", str(node))
    out = tmp_path / "films" / "x.mp4"
    out.parent.mkdir()
    assert remotion.render({}, "Mine", out) == [out, out.with_suffix(".vtt")]
    assert out.read_text() == "drawn\n" and out.with_suffix(".vtt").read_text() == "WEBVTT"
    assert remotion.render({}, "Mine", out.with_name("y.gif")) == [out.with_name("y.gif")]
    for path in out.parent.iterdir():
        path.write_text("before")
    monkeypatch.setenv("CODE", "1")
    with pytest.raises(MachineError, match="failed"):
        remotion.render({}, "Mine", out)
    assert {path.name: path.read_text() for path in out.parent.iterdir()} == dict.fromkeys(
        ("x.mp4", "x.vtt", "y.gif"), "before"
    )


@pytest.mark.slow
@needs_remotion
def test_stills_of_all_compositions(small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each shows something, its key figures stand in the page as text, and the same figures make the same bytes."""
    playwright_api = pytest.importorskip("playwright.sync_api")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOCHAT_PL_RUNS", str(tmp_path))
    (tmp_path / "test").symlink_to(small_run)
    sweep = write_sweep([{"depth": depth} for depth in (2, 4, 6)])
    scenes = {}
    for name in COMPOSITIONS:
        assert call(name, str(sweep) if name == "scaling" else "test", "--data-only").exit_code == 0
        result = call(name, f"{name}.json", "--out", f"{name}.png")
        assert result.exit_code == 0, result.exception
        _is_no_blank(tmp_path / f"{name}.png")
        scenes[name] = read_scene(tmp_path / f"{name}.json", name)
    assert call("loss", "loss.json", "--out", "again.png").exit_code == 0
    assert Path("again.png").read_bytes() == Path("loss.png").read_bytes()
    stages = [{key: value for key, value in stage.items() if key != "val_loss"} for stage in scenes["loss"]["stages"]]
    write_scene(scenes["loss"] | {"stages": stages}, tmp_path / "loss.json")
    assert "stages.0.val_loss" in refusal("loss", "loss.json", "--out", "bad.png")
    assert "Nope" in refusal("scaling", "scaling.json", "--composition", "Nope", "--out", "bad.png")
    assert "9999" in refusal("scaling", "scaling.json", "--frame", "9999", "--out", "bad.png")
    assert not list(tmp_path.glob("bad*")) and not list(tmp_path.glob(".video*"))
    summary = json.loads((small_run / "base" / "summary.json").read_text())
    with playwright_api.sync_playwright() as playwright, served(remotion.FOLDER / "build") as address:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 720})
        for name, wanted in _key_figures(scenes, summary).items():
            texts = texts_of_last_frame(page, address, COMPOSITIONS[name], scenes[name])
            for text in wanted:
                assert any(text in found for found in texts), (name, text, texts)
        browser.close()


def _key_figures(scenes: dict[str, Any], summary: dict[str, Any]) -> dict[str, set[str]]:
    """Video -> texts that must stand in its last frame; from the run's own records where these have them."""
    [best, *_] = scenes["attention"]["next"]
    ratios = [job["tokens"] / job["scaling_parameters"] for job in scenes["scaling"]["jobs"]]
    said = f"These trainings have {min(ratios):.2g} to {max(ratios):.2g} tokens a parameter."
    tokens = [piece["tokens"] for row in scenes["pipeline"]["rows"] for piece in row]
    return {
        "architecture": {f"{summary['parameters']:,}", "layer 3 of 3"},
        "loss": {"24 of 24", f"{24 * 256:,}", f"{summary['val_bpb']:.3f}", f"{summary['train_loss']:.3g}"},
        "attention": {f"{best['probability']:.0%}  {best['token'].replace(' ', '␣')}"},
        "scaling": {said},
        "pipeline": {str(max(tokens)), f"row {len(scenes['pipeline']['rows'])}"},
    }


def _is_no_blank(path: Path) -> None:
    from matplotlib.image import imread

    pixels = imread(path)[..., :3]
    assert pixels.shape == (720, 1280, 3)
    ground = (np.abs(pixels - pixels[5, 5]).max(-1) < 0.02).mean()
    assert 0.2 < ground < 0.97 and len(np.unique((pixels * 15).astype(int).reshape(-1, 3), axis=0)) > 20, path
