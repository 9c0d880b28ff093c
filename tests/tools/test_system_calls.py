"""The sandbox's filter: the numbers are the kernel's, and the program does what the table says."""

import re
import struct
from pathlib import Path

import pytest

from nanochat_pl.core.errors import UserError
from nanochat_pl.tools.system_calls import _DENIED, _INSTRUCTION, build_filter

HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
I386 = 0x40000003
ALLOWED, KILLED, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def decide(program: bytes, number: int, architecture: int) -> int:
    """What the kernel's interpreter would return, for the four instructions that the filter uses."""
    instructions = list(struct.iter_unpack(_INSTRUCTION, program))
    accumulator, i = 0, 0
    while True:
        code, if_true, if_false, operand = instructions[i]
        i += 1
        match code:
            case 0x20:
                accumulator = {0: number, 4: architecture}[operand]
            case 0x15:
                i += if_true if accumulator == operand else if_false
            case 0x25:
                i += if_true if accumulator > operand else if_false
            case 0x06:
                return operand


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_denies_what_the_kernel_calls_so(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip(f"the kernel's headers are not installed ({HEADERS[machine]})")
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", HEADERS[machine].read_text())
    numbers = {name: int(number) for name, number in pairs}
    assert len(numbers) > 250
    program = build_filter(machine)
    assert len(program) % 8 == 0
    denied = {name for name, number in numbers.items() if decide(program, number, ARCHITECTURES[machine]) == EPERM}
    absent = {"fork", "vfork", "inotify_init", "modify_ldt"} if machine == "aarch64" else set()
    # A name that the headers do not know yet is one that they are older than.
    assert denied == {name for name in _DENIED if name in numbers}
    assert _DENIED.keys() - denied <= absent | {"memfd_secret", "process_madvise"}
    assert {
        decide(program, numbers[name], ARCHITECTURES[machine]) for name in ("read", "mmap", "execve", "socketpair")
    } == {ALLOWED}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_other_tables_of_calls_are_closed(machine: str) -> None:
    program = build_filter(machine)
    assert decide(program, 463, ARCHITECTURES[machine]) == ENOSYS
    assert decide(program, 0x40000000, ARCHITECTURES[machine]) == ENOSYS
    assert decide(program, 0xFFFFFFFF, ARCHITECTURES[machine]) == ENOSYS
    assert decide(program, 2, I386) == KILLED


def test_an_unknown_machine_is_refused() -> None:
    with pytest.raises(UserError, match="x86_64 and aarch64, not riscv64"):
        build_filter("riscv64")
