"""`python -m tests.train.publish.golden CONVERTER` writes golden.json: what llama.cpp makes of our adapters.

CONVERTER is `vendor/llama.cpp/convert_lora_to_gguf.py` of llama-cpp-python's source package (0.3.36 was used); no
wheel holds it.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.train.publish.tiny import FAMILIES, WIDTHS, make_adapter, make_model

GOLDEN = Path(__file__).with_name("golden.json")


def contents(path: Path) -> dict[str, Any]:
    """Alpha, and each tensor's type, shape and hash."""
    import gguf

    reader = gguf.GGUFReader(path)
    return {
        "alpha": reader.fields["adapter.lora.alpha"].contents(),
        "architecture": reader.fields["general.architecture"].contents(),
        "tensors": {
            one.name: [one.tensor_type.name, [int(n) for n in one.shape], hashlib.sha256(one.data).hexdigest()]
            for one in sorted(reader.tensors, key=lambda one: str(one.name))
        },
    }


def main(converter: str) -> None:
    told = {}
    with tempfile.TemporaryDirectory() as scratch:
        for family, precision in [*((family, "f32") for family in FAMILIES), ("llama", "f16")]:
            folder = Path(scratch, f"{family}-{precision}")
            model = make_model(folder / "model", family)
            adapter = make_adapter(folder / "adapter", model, targets=tuple(WIDTHS))
            made = folder / "adapter.gguf"
            options = ["--base", str(model), "--outfile", str(made), "--outtype", precision]
            subprocess.run([sys.executable, converter, *options, str(adapter)], check=True)
            told[f"{family}-{precision}"] = contents(made)
    GOLDEN.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
