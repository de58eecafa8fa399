"""``python -m quantflow.cli``: the ``quantflow`` program without its script."""

from quantflow.cli import main

if __name__ == "__main__":
    main()
