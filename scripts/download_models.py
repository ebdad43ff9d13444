"""Download a profile's weights: `python scripts/download_models.py --profile cpu`.

Resumes where it stopped, verifies checksums, shows progress. The same as `groupqwen models pull`.
"""

import sys

from groupqwen.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["models", "pull"]
    main()
