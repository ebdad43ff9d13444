"""Import chats: `python scripts/export_chat_history.py FILE...`. The same as `groupqwen data import`."""

import sys

from groupqwen.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["data", "import"]
    main()
