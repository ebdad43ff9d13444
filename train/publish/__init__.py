"""From a trained adapter to what is served: exports, each loaded and asked, and the registry that holds them.

| file | what it holds |
| --- | --- |
| `exporting.py` | all forms of a job's adapter; a further form on demand |
| `lora.py` | a PEFT adapter's files, read |
| `merging.py` | base and adapter as one model, in safetensors |
| `gguf_names.py`, `gguf_adapter.py`, `gguf_model.py` | the same for llama.cpp |
| `quantizing.py` | the same for vLLM, in few bits |
| `probing.py`, `asking.py`, `asking_llama.py`, `likeness.py` | each form asked a question, and held against PEFT |
| `children.py` | what takes much memory or time runs in a process of its own, within limits |
| `registry.py`, `differences.py` | publish, archive, remove, compare |
| `sizes.py`, `tensors.py`, `errors.py` | of files and folders; of a model, by name; in words |
"""
