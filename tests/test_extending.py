"""docs/extending.md, done word by word: its files in a folder, its commands given there."""

import re
import shlex
from pathlib import Path

import pytest

from nanochat_pl.config.compose import compose
from nanochat_pl.config.explain import composing
from nanochat_pl.config.specs import Specs
from nanochat_pl.core.errors import UserError
from nanochat_pl.core.imported import imported
from tests.forks import REPOSITORY, run_program

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`(mine/[\w/]+\.\w+)`\n\n```\w+\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]
THERE = """
import os, runpy, sys
os.chdir(sys.argv[1])
sys.argv = sys.argv[2:]
if sys.argv[0] == "-m":
    runpy.run_module(sys.argv.pop(0) and sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Does what `python ARGUMENTS` does in a folder."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "train.py").symlink_to(REPOSITORY / "train.py")
    return folder


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    environment = {"NANOCHAT_PL_RUNS": "runs", "NANOCHAT_PL_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = run_program("-c", THERE, str(folder), *arguments, environment=environment)
    return done.returncode, done.stdout + done.stderr


def test_the_page_has_what_it_promises() -> None:
    kinds = {Path(name).parent.name for name in FILES if name.endswith(".yaml")}
    assert kinds == {"data", "tasks", "optim", "model", "callbacks"}
    assert len(FILES) == 2 * len(kinds), "a new part is one file and one YAML"
    assert len(COMMANDS) > len(kinds)


@pytest.mark.slow
def test_every_command_does_what_the_page_says(folder: Path) -> None:
    outputs = {}
    for command in COMMANDS:
        python, *arguments = shlex.split(command)
        assert python == "python"
        code, outputs[command] = run(folder, *arguments)
        assert code == 0, f"{command}\n{outputs[command]}"
    said = "\n".join(outputs.values())
    assert re.search(r"Slowest steps: \d+, \d+, \d+\n", said)
    assert "mine.backwards.Backwards" in said
    assert "longest: 8" in (folder / "runs/mine/base/config.yaml").read_text()
    assert "train.py --config-dir=mine/conf" in said, "the commands that it names next find the same parts"


def test_mistakes_in_ones_own_parts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(folder)
    for wrong, said in (
        ("data=rimes", "did you mean 'rhymes'"),
        ("data.longst=3", "did you mean 'data.longest'"),
        ("data.longest=many", "data.longest is 'many', but it must be a whole number"),
        ("data.longest=1", "a rhyme counts at least to 2"),
    ):
        own = ["--config-dir", str(folder / "mine" / "conf")]
        arguments = [*own, *(["data=rhymes"] if wrong.startswith("data.") else []), wrong]
        with pytest.raises(UserError, match=said), composing(arguments):
            Specs.of(compose(arguments))
    with pytest.raises(UserError, match="there is no my/conf"):
        compose(["--config-dir=my/conf"])
    (folder / "mine" / "broken.py").write_text("import torchh\n")
    (folder / "mine" / "unfinished.py").write_text("def f(:\n")
    for path, said in (
        ("mine.rhymes.RimesSpec", "no 'RimesSpec' in mine.rhymes; did you mean 'mine.rhymes.RhymesSpec'"),
        ("mine.rymes.RhymesSpec", "no 'rymes' in mine; did you mean 'mine.rhymes'"),
        ("torch.optim.AdamX", "no 'AdamX' in torch.optim; did you mean 'torch.optim.Adam'"),
        ("torchh.optim.Adam", "no module 'torchh'; did you mean 'torch'"),
        ("mine.broken.Part", "module mine.broken cannot be imported: ModuleNotFoundError: No module named 'torchh'"),
        ("mine.unfinished.Part", r"mine.unfinished cannot be imported: SyntaxError: .*line 1"),
    ):
        with pytest.raises(UserError, match=re.escape(said) if ".*" not in said else said) as error:
            imported(path, "part._target_")
        assert f"part._target_ is '{path}'" in str(error.value)
    assert imported("mine.rhymes.RhymesSpec.check", "x").__name__ == "check"
