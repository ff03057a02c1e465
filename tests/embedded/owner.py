"""A process that owns an embedded server, as the service does: `owner.py DATA [NAME=VALUE ...]`.

It obeys the lines of its standard input (`start`, `stop`, `fork` a child that calls stop) and answers each with one
line: `<owner> <postmaster> <url>`, `stopped`, or `error: <message>`. At the end of its input it exits without a stop.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rowcast.database.embedded import EmbeddedPostgres, EmbeddedPostgresError


def obey(server: EmbeddedPostgres, order: str) -> str:
    if order == "stop":
        server.stop()
        return "stopped"
    if order == "fork":
        if os.fork() == 0:
            server.stop()
            os._exit(0)
        os.wait()
    else:
        with ThreadPoolExecutor() as pool:  # whose thread ends before the server is used
            pool.submit(server.start).result()
    return f"{os.getpid()} {server.pid} {server.url}"


def main(data: str, *settings: str) -> None:
    server = EmbeddedPostgres(Path(data), settings=dict(setting.split("=") for setting in settings))
    for line in sys.stdin:
        try:
            print(obey(server, line.strip()), flush=True)
        except EmbeddedPostgresError as error:
            print("error:", str(error).replace("\n", " "), flush=True)


main(*sys.argv[1:])
