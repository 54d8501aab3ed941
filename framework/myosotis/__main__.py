"""`python -m myosotis` is the command `myosotis`."""

from myosotis.cli import main

if __name__ == "__main__":
    main()
