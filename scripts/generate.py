"""Write the files that are made from the code: `python scripts/generate.py`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from groupqwen.generated import files, write

if __name__ == "__main__":
    for path in write(files()):
        print(f"wrote {path.name}")
