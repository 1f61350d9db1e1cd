"""`python -m flashq`: the same program as `flashq`."""

from flashq.cli import main

if __name__ == "__main__":
    main()
