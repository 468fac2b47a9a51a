"""`python -m trunnel` is the `trunnel` command."""

from trunnel.cli.main import run

if __name__ == "__main__":
    run()
