"""The filter of system calls for the sandbox: a seccomp program, as bubblewrap takes it.

Namespaces and rlimits leave gaps that only a filter closes: a process whose user is root outside is exempt from the
limit on processes, AF_VSOCK sockets reach the host of a virtual machine from any network namespace, and memory in a
memfd or a System V segment counts towards no limit of the process that filled it.
"""

import struct

from nanochat_pl.core.errors import UserError

# name -> (x86_64, aarch64); None where the machine has no such call.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # One process with one thread, so that its limits are those of the whole run.
    "fork": (57, None),
    "vfork": (58, None),
    "clone": (56, 220),
    "clone3": (435, 435),
    # No address family, not even those that ignore network namespaces. socketpair, which asyncio needs, stays.
    "socket": (41, 198),
    # Memory that RLIMIT_AS does not count.
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # Other processes, and the keyrings, which namespaces do not hide from root's user.
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Wide doors into the kernel that no model-written program needs.
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "fsopen": (430, 430),
    "open_tree": (428, 428),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "syslog": (103, 116),
    "personality": (135, 92),
    "modify_ldt": (154, None),
}
_LAST_KNOWN = 462
"""mseal, of Linux 6.10. Later calls, and x86's second table above 2^30, do not exist for the sandbox."""
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Name -> column above, AUDIT_ARCH_*."""

# linux/bpf_common.h, linux/seccomp.h, asm-generic/errno-base.h, errno.h
_LOAD_WORD, _JUMP_IF_EQUAL, _JUMP_IF_GREATER, _RETURN = 0x20, 0x15, 0x25, 0x06
_OFFSET_OF_NUMBER, _OFFSET_OF_ARCHITECTURE = 0, 4
_ALLOW, _KILL_PROCESS, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_INSTRUCTION = "=HBBI"
"""Of struct sock_filter: code, how far to jump when true and when false, operand."""


def build_filter(machine: str) -> bytes:
    """The seccomp program for `machine` (as `platform.machine()` names it): denied calls fail with EPERM.

    Raises:
        UserError: the machine is neither x86_64 nor aarch64.
    """
    if machine not in _MACHINES:
        raise UserError(f"The sandbox's filter of system calls knows {' and '.join(_MACHINES)}, not {machine}.")
    column, architecture = _MACHINES[machine]
    program = [
        (_LOAD_WORD, 0, 0, _OFFSET_OF_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL_PROCESS),
        (_LOAD_WORD, 0, 0, _OFFSET_OF_NUMBER),
        (_JUMP_IF_GREATER, 0, 1, _LAST_KNOWN),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
    ]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | _EPERM)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack(_INSTRUCTION, *instruction) for instruction in program)
