"""``python -m rowcast`` is the command ``rowcast``."""

from rowcast.cli import main

if __name__ == "__main__":
    main(prog_name="rowcast")
