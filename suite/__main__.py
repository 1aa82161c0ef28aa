"""`python -m suite`."""

from suite.app import main

if __name__ == "__main__":
    main()
