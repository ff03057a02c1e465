"""The launcher of the embedded server: a program that changes its account and then becomes ``postgres``.

It runs between fork and exec, by its path and with one thread, and imports nothing but the standard library: it may not
be able to read the other modules of the service once it has another account.

PostgreSQL refuses to run as root. Root keeps its files and gets another number for itself: the launcher enters a user
namespace that shows uid 0 as ``nobody``. Where namespaces are denied, the data directory is given to the real
``nobody``; from then on the server runs as the owner of its directory.
"""

import contextlib
import ctypes
import os
import pwd
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG, PR_SET_KEEPCAPS, PR_SET_SECUREBITS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 1, 8, 28, 47, 2
SECBIT_NO_SETUID_FIXUP = 1 << 2
CAP_DAC_OVERRIDE, CAP_SETPCAP = 1, 8
LINUX_CAPABILITY_VERSION_3 = 0x20080522


def launch(parent: int, data: Path, sockets: Path, command: list[str]) -> NoReturn:
    """Become `command`, with an account that PostgreSQL accepts, and be interrupted when `parent` dies."""
    if os.geteuid() == 0 or not _is_known(os.geteuid()):
        _change_account(data, sockets, Path(command[0]))
    if sys.platform == "linux":
        _system_call("prctl", PR_SET_PDEATHSIG, signal.SIGINT)  # after the account: a change of it clears the request
        if os.getppid() != parent:
            sys.exit("the process that started this server has gone")
    os.execv(command[0], command)


def _change_account(data: Path, sockets: Path, program: Path) -> None:
    """Become the owner of `data` with a name: PostgreSQL refuses root, and initdb refuses an account without a name."""
    places = (program, data, sockets)
    owner = data.stat()
    nobody = pwd.getpwnam("nobody")
    if owner.st_uid == os.geteuid() and _may_enter_namespace(nobody, places):
        _enter_namespace(nobody)
    elif os.geteuid() == 0:
        uid, gid = (owner.st_uid, owner.st_gid) if owner.st_uid != 0 else (nobody.pw_uid, nobody.pw_gid)
        for path in (sockets, *reversed([data, *data.rglob("*")])):  # a directory after what is in it
            os.chown(path, uid, gid, follow_symlinks=False)
        _drop_root(uid, gid, places)


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _may_enter_namespace(account: pwd.struct_passwd, places: Sequence[Path]) -> bool:
    """Whether `_enter_namespace` is allowed and useful; tried in a child, because half of it could not be undone.

    Inside, uid 0 has its own files and none of root's privileges: a directory that others closed stays closed.
    """
    if sys.platform != "linux":
        return False
    child = os.fork()
    if child == 0:
        try:
            _enter_namespace(account)
        except OSError:
            os._exit(1)
        os._exit(0 if _can_reach(places) else 1)
    return os.waitpid(child, 0)[1] == 0


def _enter_namespace(account: pwd.struct_passwd) -> None:
    """Be `account` in a user namespace, and the same account as before outside it, so for files: user_namespaces(7)."""
    uid, gid = os.geteuid(), os.getegid()
    _system_call("unshare", CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{account.pw_uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{account.pw_gid} {gid} 1")


def _drop_root(uid: int, gid: int, places: Sequence[Path]) -> None:
    """Become another account for good; on Linux with the right to pass closed directories, if `places` lie in one."""
    if sys.platform == "linux":
        _system_call("prctl", PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):  # root without this right: the check below fails
            if _can_reach(places):
                _keep_capabilities(0)
            else:
                _keep_capabilities(1 << CAP_DAC_OVERRIDE | 1 << CAP_SETPCAP)
                _system_call("prctl", PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP)  # for access(2), which postgres calls
                _keep_capabilities(1 << CAP_DAC_OVERRIDE)
            return
    if not _can_reach(places):
        sys.exit(
            f"PostgreSQL does not run as root, and uid {uid} cannot reach all of {', '.join(map(str, places))}:"
            " open the directories above to it (chmod a+x), start as an ordinary account, or set DATABASE_URL"
        )


def _can_reach(places: Sequence[Path]) -> bool:
    return all(os.access(place, os.X_OK) for place in places)


def _keep_capabilities(mask: int) -> None:
    """Have only the capabilities of `mask`, all below 32, and keep them across exec: capabilities(7)."""
    header = struct.pack("Ii", LINUX_CAPABILITY_VERSION_3, 0)
    _system_call("capset", header, struct.pack("6I", mask, mask, mask, 0, 0, 0))
    for capability in range(mask.bit_length()):
        if mask >> capability & 1:
            _system_call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def _system_call(name: str, *arguments: int | bytes) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    launch(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
