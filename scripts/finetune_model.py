"""Fine-tune a model on a dataset: `python scripts/finetune_model.py DATASET --base VARIANT --name NAME`.

Shows its progress; Ctrl-C leaves a checkpoint from which `--resume ID` goes on. The same as `groupqwen train
here`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from groupqwen.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["train", "here"]
    main()
