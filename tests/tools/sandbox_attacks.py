"""Programs that try to get out of the sandbox or to exhaust the machine, and what the result must say of each."""

from dataclasses import dataclass

PRELUDE = """
import contextlib, ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def attempt(name, action):
    try:
        print("ESCAPED", name, action())
    except BaseException as error:
        print("contained", name, type(error).__name__, error)

def call(name, number, *arguments):
    result = libc.syscall(number, *arguments)
    print("contained" if result == -1 else "ESCAPED", name, result, os.strerror(ctypes.get_errno()))
"""
"""Every attack begins with it. A line that begins with ESCAPED fails the test."""


@dataclass(frozen=True)
class Attack:
    """A program and its fate.

    Args:
        code: with {port}, {file}, {folder}, {repository}, {pid}, {canary_pid} and {secret} of the host.
        ends: the exit codes that it may end with, or the bound that kills it.
        says: a regular expression that stdout or stderr holds.
    """

    code: str
    ends: int | tuple[int, ...] | str = 0
    says: str = ""


PROCESSES = {
    "fork_bomb": Attack("while True: os.fork()", 1, "PermissionError"),
    "fork_bomb_that_ignores_errors": Attack(
        "for _ in range(1000):\n    with contextlib.suppress(OSError): os.fork()\nprint(os.getpid())", 0, r"^2$"
    ),
    "forks_by_system_call": Attack(
        "call('fork', 57)\ncall('vfork', 58)\ncall('clone', 56, 17, 0, 0, 0, 0)\ncall('clone3', 435, 0, 0)\n"
        "call('clone of x32', 0x40000000 + 56, 17, 0, 0, 0, 0)",
        says="contained clone3",
    ),
    "thread_bomb": Attack(
        "import threading\nwhile True: threading.Thread(target=print).start()", 1, "start new thread"
    ),
    "thread_by_system_call": Attack("call('clone', 56, 0x10D00, 0, 0, 0, 0)", 0, "contained clone"),
    "subprocess": Attack("import subprocess\nsubprocess.run(['/bin/sh', '-c', 'echo ESCAPED'])", 1, "Error"),
    "system": Attack("print(os.system('echo ESCAPED'))", 0, "-1|32512"),
    "posix_spawn": Attack("attempt('spawn', lambda: os.posix_spawn(sys.executable, ['python'], {{}}))", 0, "contained"),
    "multiprocessing": Attack("import multiprocessing\nmultiprocessing.Pool(2)", 1, "Error"),
    "daemon_by_double_fork": Attack("if os.fork() == 0:\n    os.setsid()\n    os.fork()", 1, "PermissionError"),
    "exec_of_a_shell": Attack("os.execv('/bin/sh', ['sh'])", 1, "FileNotFoundError"),
    "exec_without_end": Attack("os.execv(sys.executable, sys.orig_argv)", "time"),
}

NETWORK = {
    "tcp": Attack("import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)", 1, "PermissionError"),
    "udp": Attack(
        "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))", 1, "Permission"
    ),
    "all_families": Attack(
        "import socket\nfor family in range(50):\n    for kind in (1, 2, 3):\n"
        "        attempt(f'socket {{family}} {{kind}}', lambda: socket.socket(family, kind))",
        says="contained socket 40 1",
    ),
    "dns": Attack("import socket\nsocket.getaddrinfo('example.com', 80)", 1, "gaierror"),
    "http": Attack("import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/')", 1, "URLError"),
    "asyncio": Attack(
        "import asyncio\nasyncio.run(asyncio.open_connection('127.0.0.1', {port}))", 1, "PermissionError"
    ),
    "unix_socket_of_the_host": Attack(
        "import socket\nclient = socket.socketpair()[0]\n"
        "attempt('connect', lambda: client.connect('{folder}/socket'))\n"
        "attempt('abstract', lambda: client.connect('\\0nanochat-pl-{port}'))",
        says="contained abstract",
    ),
    "inherited_files": Attack("for fd in range(3, 1024): attempt(fd, lambda: os.fstat(fd))", 0, "contained 1023"),
}

FILES = {
    "passwords": Attack(
        "for name in ('passwd', 'shadow', 'hosts'): attempt(name, lambda: open('/etc/' + name).read())"
    ),
    "a_file_of_the_host": Attack("attempt('read', lambda: open('{file}').read())", 0, "FileNotFoundError"),
    "a_file_by_dots": Attack("attempt('read', lambda: open('/tmp/../../../..{file}').read())", 0, "FileNotFoundError"),
    "the_repository": Attack("attempt('read', lambda: open('{repository}/pyproject.toml').read())", 0, "FileNotFound"),
    "the_homes": Attack(
        "for path in ('/root/.ssh', '/root/.bashrc', '/root/.cache', '/home', os.path.expanduser('~root/.profile')):\n"
        "    attempt(path, lambda: (os.stat(path), os.listdir(path)))",
        says="contained /home",
    ),
    "proc": Attack(
        "for name in ('1/environ', '1/root', 'self/mem', 'self/root', 'self/exe', '{pid}/root', '{pid}/environ',\n"
        "             'kcore', 'sys/kernel/core_pattern', 'sysrq-trigger'):\n"
        "    attempt(name, lambda: open('/proc/' + name, 'rb').read(9))",
        says="contained sysrq",
    ),
    "sys": Attack("attempt('sys', lambda: os.listdir('/sys'))\nattempt('run', lambda: os.listdir('/run'))"),
    "devices": Attack(
        "import stat\nfor name in ('null', 'sda', 'vda', 'mem', 'kmsg', 'nvidia0', 'tty', 'ptmx', 'shm'):\n"
        "    attempt(name, lambda: os.chmod('/dev/' + name, 0o600))\n"
        "attempt('mknod', lambda: os.mknod('/tmp/disk', 0o600 | stat.S_IFBLK, os.makedev(8, 0)))",
        says="contained mknod PermissionError",
    ),
    "writing_elsewhere": Attack(
        "for folder in ('/', '/usr/lib', '/etc', '/usr', '/lib', os.path.dirname(os.__file__), sys.prefix, '/dev'):\n"
        "    attempt(folder, lambda: open(folder + '/planted', 'w'))",
        says="Read-only",
    ),
    "changing_the_library": Attack(
        "attempt('chmod', lambda: os.chmod(os.__file__, 0o777))\nattempt('utime', lambda: os.utime(os.__file__))\n"
        "attempt('truncate', lambda: os.truncate(os.__file__, 0))\nattempt('unlink', lambda: os.unlink(os.__file__))\n"
        "attempt('program', lambda: open(__file__, 'a'))",
        says="contained program",
    ),
    "symbolic_link": Attack(
        "os.symlink('{file}', 'link')\nattempt('read', lambda: open('link').read())\n"
        "attempt('write', lambda: open('link', 'w').write('planted'))\nos.symlink('/', 'root')\n"
        "attempt('through', lambda: open('root{file}').read())",
        says="contained through",
    ),
    "hard_link": Attack("attempt('link', lambda: os.link(os.__file__, '/tmp/link'))", 0, "cross-device"),
    "chroot": Attack("os.mkdir('/tmp/a')\nattempt('chroot', lambda: os.chroot('/tmp/a'))", 0, "PermissionError"),
    "by_handle": Attack(
        "call('name', 303, -100, b'/', 0, 0, 0)\ncall('open', 304, -100, b'/', 0)", 0, "contained open"
    ),
    "mounting": Attack(
        "call('mount', 165, b'none', b'/tmp', b'tmpfs', 0, 0)\ncall('umount', 166, b'/tmp', 2)\n"
        "call('remount', 165, 0, b'/', 0, 0x1020, 0)\ncall('pivot_root', 155, b'.', b'.')\n"
        "call('fsopen', 430, b'proc', 0)\n"
        "call('open_tree', 428, -100, b'/', 1)",
        says="contained open_tree",
    ),
    "secrets_of_the_environment": Attack(
        "print(dict(os.environ))\nenviron = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, 'environ')\ni = 0\n"
        "while environ[i]:\n    print(environ[i])\n    i += 1",
        says="HOME",
    ),
}

PRIVILEGES = {
    "unshare": Attack(
        "call('user', 272, 0x10000000)\ncall('mounts', 272, 0x20000)\ncall('setns', 308, 0, 0)", 0, "contained"
    ),
    "becoming_root": Attack(
        "for name in ('setuid', 'setgid', 'seteuid'): attempt(name, lambda: getattr(os, name)(0))\n"
        "attempt('setgroups', lambda: os.setgroups([0]))\nprint(os.getuid(), os.getgid())",
        says="65534 65534",
    ),
    "raising_limits": Attack(
        "import resource\nfrom resource import RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE\n"
        "for kind in (RLIMIT_AS, RLIMIT_CPU, RLIMIT_FSIZE, RLIMIT_NOFILE):\n"
        "    attempt(kind, lambda: resource.setrlimit(kind, (1 << 40, 1 << 40)))\n"
        "    attempt(kind, lambda: resource.prlimit(1, kind, (1 << 40, 1 << 40)))\n"
        "attempt('nice', lambda: os.nice(-10))",
        says="contained nice",
    ),
    "ptrace": Attack(
        "call('attach', 101, 16, 1, 0, 0)\ncall('seize', 101, 0x4206, 1, 0, 0)\ncall('me', 101, 0, 0, 0, 0)"
    ),
    "memory_of_others": Attack(
        "for pid in (1, {pid}, {canary_pid}):\n    call('read', 310, pid, 0, 0, 0, 0, 0)\n"
        "    call('write', 311, pid, 0, 0, 0, 0, 0)\n"
        "    call('pidfd', 434, pid, 0)",
        says="contained pidfd",
    ),
    "doors_into_the_kernel": Attack(
        "call('bpf', 321, 0, 0, 0)\ncall('perf', 298, 0, 0, -1, -1, 0)\ncall('userfaultfd', 323, 0)\n"
        "call('io_uring', 425, 1, 0)\ncall('keyctl', 250, 0, -3, 1)\ncall('add_key', 248, b'user', b'a', b'b', 1, -4)\n"
        "call('syslog', 103, 3, 0, 0)\ncall('personality', 135, 0x400000)\ncall('newer', 5000)\ncall('reboot', 169, 0)",
        says="contained reboot",
    ),
    "machine_code_of_the_old_abi": Attack(
        "import mmap\ncode = mmap.mmap(-1, 4096, prot=7)\ncode.write(bytes.fromhex('b802000000cd80c3'))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(code))\n"
        "print('ESCAPED: fork by int 0x80', ctypes.CFUNCTYPE(ctypes.c_int)(address)())",
        (128 + 31, 128 + 11),
    ),
    "subclasses": Attack(
        "import subprocess\nclasses = ().__class__.__base__.__subclasses__()\n"
        "popen = next(c for c in classes if c.__name__ == 'Popen')\n"
        "attempt('popen', lambda: popen([sys.executable, '-c', '']))",
        says="contained popen PermissionError",
    ),
    "typing_into_the_terminal": Attack(
        "import fcntl\nfor fd in range(3): attempt(fd, lambda: fcntl.ioctl(fd, 0x5412, b'x'))\n"
        "attempt('tty', lambda: open('/dev/tty', 'w'))",
        says="contained 2",
    ),
}

SIGNALS = {
    "the_parent": Attack(
        "for pid in ({pid}, {canary_pid}, os.getppid() or 1 << 20):\n"
        "    if pid != 1: attempt(pid, lambda: os.kill(pid, 9))\nprint(os.getppid())",
        says="ProcessLookupError",
    ),
    "pid_1": Attack("for number in (9, 15, 19, 2): os.kill(1, number)\nprint('pid 1 ignores them')", 0, "ignores"),
    "everyone": Attack("with contextlib.suppress(OSError): os.kill(-1, 9)\nprint('alive')", 0, "alive"),
    "its_group": Attack("os.kill(0, 9)", 128 + 9),
    "stop": Attack("import signal\nos.kill(os.getpid(), signal.SIGSTOP)", "time"),
    "none_of_them_heard": Attack(
        "import signal\nfor number in range(1, 65):\n    with contextlib.suppress(OSError, ValueError):\n"
        "        signal.signal(number, signal.SIG_IGN)\nwhile True: pass",
        "time",
    ),
    "abort": Attack("os.abort()", 128 + 6),
    "crash": Attack("ctypes.string_at(0)", 128 + 11),
}

MEMORY = {
    "list": Attack("x = []\nwhile True: x.append([0] * 10**6)", 1, "MemoryError"),
    "bytes": Attack("x = b'x' * (1 << 40)", 1, "MemoryError"),
    "mmap": Attack("import mmap\nx = [mmap.mmap(-1, 1 << 24) for _ in range(100)]", 1, "Cannot allocate memory"),
    "malloc": Attack(
        "libc.malloc.restype = ctypes.c_void_p\nn = 0\nwhile (p := libc.malloc(1 << 24)):\n"
        "    ctypes.memset(p, 1, 1 << 24)\n    n += 1\nprint('blocks', n)",
        says=r"blocks 1?\d$",
    ),
    "memory_files": Attack(
        "attempt('memfd', lambda: os.memfd_create('x'))\ncall('secret', 447, 0)", 0, "contained secret"
    ),
    "shared_segments": Attack(
        "call('shmget', 29, 0, 1 << 30, 0o1600)\ncall('semget', 64, 0, 1000, 0o1600)\ncall('msgget', 68, 0, 0o1600)\n"
        "call('mq_open', 240, b'x', 0o102, 0o600, 0)",
        says="contained mq_open",
    ),
    "shared_memory": Attack(
        "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=1 << 30)", 1, "Error"
    ),
    "decompression": Attack(
        "import zlib\nx = zlib.compress(b'\\0' * (100 << 20))\nx = [zlib.decompress(x) for _ in range(10)]",
        1,
        "MemoryError",
    ),
    "recursion": Attack("def f(): return f()\nf()", 1, "RecursionError"),
    "recursion_without_limit": Attack(
        "sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        (1, 128 + 6, 128 + 11),
    ),
    "a_deep_program": Attack("attempt('eval', lambda: eval('(' * 10**6) and None)", (0, 128 + 11)),
    "a_wide_program": Attack("eval('+'.join(['1'] * 10**7))", (1, 128 + 11)),
}

ENDLESS = {
    "loop": Attack("while True: pass", "time"),
    "loop_in_c": Attack("sum(range(10**15))", "time"),
    "regular_expression": Attack("import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')", "time"),
    "power": Attack("print(len(str(9 ** 9 ** 9)))", "time"),
    "sleep": Attack("import time\nwhile True: time.sleep(1000)", "time"),
    "at_exit": Attack("import atexit\n@atexit.register\ndef _():\n    while True: pass", "time"),
    "uncaught_interrupts": Attack(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass", "time"
    ),
    "reading_of_what_never_comes": Attack("read, write = os.pipe()\nos.read(read, 1)", "time"),
    "files_closed": Attack("os.closerange(0, 1024)\nwhile True: pass", "time"),
    "a_lock": Attack("import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()", "time"),
}

FLOODS = {
    "stdout": Attack("while True: print('x' * 10**5)", "output"),
    "stderr": Attack("while True: print('x' * 10**5, file=sys.stderr)", "output"),
    "both_unbuffered": Attack("while True: os.write(1, b'\\xff' * 9999), os.write(2, b'\\0' * 9999)", "output"),
    "a_line_without_end": Attack("while True: print(end='x')", "output"),
    "warnings_at_exit": Attack(
        "class A:\n    def __del__(self):\n        while True: sys.stderr.write('x' * 999)\na = A()", "output"
    ),
    "disk": Attack(
        "with open('a', 'wb') as f:\n    while True: f.write(bytes(1 << 20))", 1, "File too large|No space left"
    ),
    "disk_by_files": Attack(
        "for i in range(99):\n    with open(str(i), 'wb') as f: f.write(bytes(8 << 20))", 1, "No space left on device"
    ),
    "sparse_file": Attack("os.truncate(os.open('a', os.O_CREAT | os.O_RDWR), 1 << 40)", 1, "File too large"),
    "empty_files": Attack("i = 0\nwhile True:\n    os.mknod(str(i))\n    i += 1", "time"),
    "deep_folders": Attack("while True:\n    os.mkdir('a')\n    os.chdir('a')", "time"),
    "open_files": Attack("x = [open(__file__) for _ in range(10**6)]", 1, "Too many open files"),
    "pipes": Attack("x = [os.pipe() for _ in range(10**6)]", 1, "Too many open files"),
    "watches": Attack("call('inotify', 294, 0)\ncall('fanotify', 300, 0, 0)", 0, "contained fanotify"),
}

GROUPS = {
    "processes": PROCESSES,
    "network": NETWORK,
    "files": FILES,
    "privileges": PRIVILEGES,
    "signals": SIGNALS,
    "memory": MEMORY,
    "endless": ENDLESS,
    "floods": FLOODS,
}
ATTACKS = {f"{group}-{name}": attack for group, attacks in GROUPS.items() for name, attack in attacks.items()}
