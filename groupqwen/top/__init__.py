"""`groupqwen top`: the running group, live in a terminal."""
