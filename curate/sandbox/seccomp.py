"""The system calls that untrusted code may not make, as a seccomp filter (classic BPF) in bytes.

A deny list: what is not named is allowed, since the namespaces around it already take away what it could reach. Named is what
opens the kernel wider (io_uring, bpf, user namespaces, keys), what reaches other processes, networks, new programs, and memory
that no limit counts.
"""

import platform
import struct

_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _FIRST, _SECOND = 0, 4, 16, 24
_NAMESPACES = 0x7E020080
"""CLONE_NEW*: time, mount, cgroup, uts, ipc, user, pid and net."""

# fmt: off
# Numbers on x86_64 and aarch64 (linux/unistd.h); None where the call does not exist.
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "process_madvise": (440, 440),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "kcmp": (312, 272),
    # new programs
    "execve": (59, 221), "execveat": (322, 281), "personality": (135, 92),
    # the network, and local services
    "socket": (41, 198), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242),
    "connect": (42, 203),
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431),
    "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442), "mknod": (133, None), "mknodat": (259, 33),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "fanotify_init": (300, 262),
    # large or rarely tested parts of the kernel
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "modify_ldt": (154, None), "lookup_dcookie": (212, 18), "nfsservctl": (180, 42),
    "mbind": (237, 235), "set_mempolicy": (238, 237), "migrate_pages": (256, 238), "move_pages": (279, 239),
    # memory that no limit of a process counts
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "mq_open": (240, 180),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225), "syslog": (103, 116),
    "acct": (163, 89), "quotactl": (179, 60), "iopl": (172, None), "ioperm": (173, None), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161),
    "setdomainname": (171, 162), "vhangup": (153, 58),
}
# fmt: on
_CLONE, _CLONE3, _IOCTL, _SOCKETPAIR = (56, 220), (435, 435), (16, 29), (53, 199)
_TERMINAL = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX put characters into a terminal's input (CVE-2017-5226)."""


def seccomp_filter(machine: str | None = None) -> bytes | None:
    """The filter for this machine; None where its system calls are not known to us."""
    known = _ARCHITECTURES.get(machine or platform.machine())
    if known is None:
        return None
    architecture, column = known
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_EQUAL, architecture, skip_if=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if column == 0:  # the x32 calls of x86_64 are the same calls under other numbers
        steps += [_step(_AT_LEAST, 0x40000000, skip_unless=1), _step(_RETURN, _EPERM)]
    for numbers in _DENIED.values():
        number = numbers[column]
        if number is not None:
            steps += [_step(_EQUAL, number, skip_unless=1), _step(_RETURN, _EPERM)]
    # The flags of clone3 lie in memory, where no filter can look; without it libc takes clone.
    steps += [_step(_EQUAL, _CLONE3[column], skip_unless=1), _step(_RETURN, _ENOSYS)]
    steps += [_step(_EQUAL, _CLONE[column], skip_unless=4), _step(_LOAD, _FIRST), _step(_ANY_BIT, _NAMESPACES, skip_unless=1)]
    steps += [_step(_RETURN, _EPERM), _step(_RETURN, _ALLOW)]
    # A pair of datagram sockets could still send to an address.
    steps += [_step(_EQUAL, _SOCKETPAIR[column], skip_unless=5), _step(_LOAD, _SECOND), _step(_AND, 0xF)]
    steps += [_step(_EQUAL, 1, skip_if=1), _step(_RETURN, _EPERM), _step(_RETURN, _ALLOW)]
    steps += [_step(_EQUAL, _IOCTL[column], skip_unless=4), _step(_LOAD, _SECOND)]
    steps += [_step(_EQUAL, _TERMINAL[0], skip_if=1), _step(_EQUAL, _TERMINAL[1], skip_unless=1), _step(_RETURN, _EPERM)]
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, *, skip_if: int = 0, skip_unless: int = 0) -> bytes:
    """One instruction of classic BPF."""
    return struct.pack("=HBBI", code, skip_if, skip_unless, value)
