"""Run a command as another kind of account would: `account.py KIND COMMAND...`, for root only.

`ordinary` is `nobody` (with the right to read all files, so that the interpreter may be anywhere), and `nameless` an
account that is not in /etc/passwd. `container` is root as it is in a container by default: few capabilities, and no
namespaces of its own; `powerless` is the same without the right to pass closed directories.
"""

import ctypes
import os
import platform
import struct
import sys

PR_SET_KEEPCAPS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, PR_CAPBSET_DROP = 8, 22, 2, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, KILL, SETGID, SETUID, SETPCAP = 0, 1, 2, 5, 6, 7, 8
UNSHARE = {"x86_64": 272, "aarch64": 97}
NOBODY, NAMELESS = 65534, 54321

libc = ctypes.CDLL(None, use_errno=True)


def become_ordinary(uid: int) -> None:
    assert libc.prctl(PR_SET_KEEPCAPS, 1) == 0
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    mask = 1 << DAC_READ_SEARCH
    assert libc.capset(struct.pack("Ii", 0x20080522, 0), struct.pack("6I", mask, mask, mask, 0, 0, 0)) == 0
    assert libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, DAC_READ_SEARCH, 0, 0) == 0


def become_container(capabilities: set[int]) -> None:
    """Make unshare(2) fail with EPERM (a seccomp filter of four instructions) and give up most capabilities."""
    instructions = [
        (0x20, 0, 0, 0),  # load the number of the system call
        (0x15, 0, 1, UNSHARE[platform.machine()]),  # skip the next unless it is unshare
        (0x06, 0, 0, 0x00050001),  # fail with EPERM
        (0x06, 0, 0, 0x7FFF0000),  # allow
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *instruction) for instruction in instructions))
    program = struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code))
    assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program) == 0
    for capability in set(range(41)) - capabilities:
        libc.prctl(PR_CAPBSET_DROP, capability)


match sys.argv[1]:
    case "ordinary":
        become_ordinary(NOBODY)
    case "nameless":
        become_ordinary(NAMELESS)
    case "container":
        become_container({CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID, SETPCAP})
    case "powerless":
        become_container({CHOWN, KILL, SETGID, SETUID, SETPCAP})
os.execv(sys.argv[2], sys.argv[2:])
