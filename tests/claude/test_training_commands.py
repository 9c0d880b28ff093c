"""Which Bash commands train, as the hooks read them."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import REPOSITORY


@pytest.fixture(scope="module")
def reading() -> Iterator[Any]:
    """The hooks' own modules, which are imported by their bare names."""
    folder = str(REPOSITORY / ".claude" / "hooks")
    sys.path.insert(0, folder)
    import training_commands

    yield training_commands
    sys.path.remove(folder)


TRAIN = [
    ("python train.py", []),
    ("python3.11 -u train.py model.depth=6 seed=2", ["model.depth=6", "seed=2"]),
    (".venv/bin/python ./train.py hw=cpu", ["hw=cpu"]),
    ("make lint && python train.py stage=sft | tee out.txt", ["stage=sft"]),
    ("source .venv/bin/activate; python train.py", []),
    ("python train.py 'data.files=[a b,c]' run.name=\"my run\"", ["data.files=[a b,c]", "run.name=my run"]),
    ("python train.py data.files='a b'.txt > log.txt 2>&1 &", ["data.files=a b.txt"]),
    ("nohup python train.py hw=cpu &> log &", ["hw=cpu"]),
    ("CUDA_VISIBLE_DEVICES=0 OMP_NUM_THREADS=1 python train.py", []),
    ("env A=1 nice -n 5 timeout --signal TERM 60 python train.py seed=1", ["seed=1"]),
    ("uv run --extra data python train.py seed=1", ["seed=1"]),
    ("torchrun --nproc-per-node 2 train.py hw=h100x8", ["hw=h100x8"]),
    ("python -m torch.distributed.run --nnodes=2 train.py", []),
    ("for s in 1 2; do python train.py seed=$s; done", ["seed=$s"]),
    ("if true; then python train.py; fi", []),
    ("(cd conf/.. && python train.py)", []),
    ("cd docs && python ../train.py", []),
    ("make train ARGS='model.depth=2 hw=cpu'", ["model.depth=2", "hw=cpu"]),
    ("bash -c 'python train.py seed=3'", ["seed=3"]),
    ("python \\\n  train.py \\\n  seed=4", ["seed=4"]),
    ("out=$(python train.py seed=5)", ["seed=5"]),
    ("python train.py -m seed=1,2", ["-m", "seed=1,2"]),
]  # fmt: skip

DO_NOT = [
    "grep -n fit train.py",
    "cat train.py && ls",
    "git commit -m 'python train.py seed=1; python train.py'",
    'echo "python train.py"',
    "echo x # python train.py",
    "python train.py --help",
    "python train.py --cfg job model.depth=6",
    "python -m nanochat_pl plan recipe=tiny",
    "python -m pytest tests -k train.py",
    "python -c 'import train'",
    "ruff check train.py",
    "cd docs && python train.py",
    "python other/train.py",
    "make test",
    "make -C docs train.py",
    "cat > run.sh <<'EOF'\npython train.py\nEOF\n",
    "cat <<< 'python train.py'",
    "python train.py 'open quote",
    "sed -n 1,5p train.py > train.py.txt",
    "timeout 5 grep python train.py",
    "make -n train ARGS=seed=1",
    "env -u NANOCHAT_PL_RUNS python train.py",
    "uv run --directory ../other python train.py",
    "sudo python train.py",
    "ssh node python train.py",
    "srun python train.py +hw=slurm",
    "which python; wc -l train.py",
    "",
]


@pytest.mark.parametrize(("command", "arguments"), TRAIN)
def test_a_training_is_seen_with_its_options(reading: Any, command: str, arguments: list[str]) -> None:
    [training] = reading.trainings(command, REPOSITORY, REPOSITORY)
    assert training.arguments == arguments
    assert training.is_plain == ("$" not in command)
    assert training.is_launched == ("torch" in command)


@pytest.mark.parametrize("command", DO_NOT)
def test_what_only_speaks_of_training_is_left_alone(reading: Any, command: str) -> None:
    assert reading.trainings(command, REPOSITORY, REPOSITORY) == []


def test_folder_and_variables_are_those_of_the_command(reading: Any, tmp_path: Path) -> None:
    line = f"export A=1; B=2 python train.py; cd {tmp_path}; C=3 python {REPOSITORY}/train.py; python train.py"
    first, second = reading.trainings(line, REPOSITORY, REPOSITORY)
    assert (first.folder, first.environment) == (REPOSITORY, {"A": "1", "B": "2"})
    assert (second.folder, second.environment) == (tmp_path, {"A": "1", "C": "3"})
    for unknown in ("export A=$HOME; python train.py", "A=$HOME/runs python train.py", "env A=$B python train.py"):
        assert reading.trainings(unknown, REPOSITORY, REPOSITORY)[0].is_plain is False
    assert reading.trainings("python train.py data.files=*.txt", REPOSITORY, REPOSITORY)[0].is_plain is False
    assert reading.trainings("python train.py 'data.files=*.txt'", REPOSITORY, REPOSITORY)[0].is_plain is True


MEDDLING = [
    "git switch other", "source .env", "ls runs/x ||", "rm -r runs/old", "kill 7; sleep 9", "echo 'a: 1' > conf/a.yaml",
    "sed -i s/a/b/ conf/train.yaml", "while pgrep -f train.py; do sleep 5; done", "python train.py seed=1",
]  # fmt: skip


@pytest.mark.parametrize("before", MEDDLING)
def test_what_stands_in_front_may_change_what_a_training_meets(reading: Any, before: str) -> None:
    line = f"{before}{' ' if before.endswith('||') else '; '}python train.py seed=2"
    training = reading.trainings(line, REPOSITORY, REPOSITORY)[-1]
    assert training.arguments == ["seed=2"] and not training.comes_first


@pytest.mark.parametrize("before", ["cd .", "source .venv/bin/activate", "A=1", "echo now"])
def test_what_changes_nothing_may_stand_in_front(reading: Any, before: str) -> None:
    [training] = reading.trainings(f"{before} && bash -c 'python train.py seed=2'; rm x", REPOSITORY, REPOSITORY)
    assert training.comes_first
