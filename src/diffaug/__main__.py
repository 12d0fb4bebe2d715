"""`python -m diffaug` is the command line."""

from diffaug.cli.main import main

if __name__ == "__main__":
    main()
