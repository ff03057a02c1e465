"""``python -m service`` is the command ``rowcast``."""

from service.cli import main

if __name__ == "__main__":
    main(prog_name="rowcast")
