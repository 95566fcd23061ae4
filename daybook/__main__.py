"""`python -m daybook` is the `daybook` command."""

from daybook.cli import main

if __name__ == "__main__":
    main()
