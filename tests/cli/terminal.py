"""A command in a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from ..conftest import without_settings


def heed_interrupts() -> None:
    """Let SIGINT interrupt this process, as in a terminal: where the tests run in the background, it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _prepare() -> None:
    heed_interrupts()
    os.close(os.open(os.ttyname(0), os.O_RDWR))  # which becomes the controlling terminal


def _keep_output(screen: int) -> None:
    """Let Ctrl-C leave what is on its way to the screen: the kernel discards it after the signal, the command's answer included."""
    modes = termios.tcgetattr(screen)
    modes[3] |= termios.NOFLSH
    termios.tcsetattr(screen, termios.TCSANOW, modes)


class Terminal:
    """A terminal in which a command runs."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        hidden = without_settings()
        environment = {name: value for name, value in os.environ.items() if name not in hidden} | {"TERM": "dumb"}
        self.screen, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        _keep_output(inner)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rowcast", *arguments, "--config", str(directory / "config")],
            stdin=inner, stdout=inner, stderr=inner, env=environment, start_new_session=True,
            preexec_fn=_prepare,
        )  # fmt: skip
        os.close(inner)
        self.printed = b""

    def type(self, text: str) -> None:
        os.write(self.screen, text.encode())

    def until(self, text: str, seconds: float = 30) -> str:
        """What is printed up to a text."""
        end = time.monotonic() + seconds
        while text.encode() not in self.printed and time.monotonic() < end:
            if select.select([self.screen], [], [], 0.5)[0]:
                try:
                    self.printed += os.read(self.screen, 1024)
                except OSError:
                    break
        before, found, self.printed = self.printed.partition(text.encode())
        assert found, before.decode()
        return (before + found).decode()
