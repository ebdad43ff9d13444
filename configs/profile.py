"""Profiles: which variants one machine serves, how, and within which limits (`profiles/*.yaml`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_serializer, model_validator

from configs.catalog import Catalog, load_catalog
from configs.document import ROOT, ConfigError, Strict, read
from configs.finetuning import FinetuningRules
from configs.ledger import LedgerRules
from configs.routing import DeviceClass, Level

PROFILES = ROOT / "profiles"


class Limits(Strict):
    """What is answered when a limit is reached stands in each description."""

    body_bytes: int = Field(32 * 2**20, gt=0, description="Request body; beyond: 413.")
    json_depth: int = Field(64, ge=8, le=128, description="Levels of lists and objects in a body; beyond: 400.")
    messages: int = Field(4096, gt=0, description="Messages in a conversation; beyond: 400.")
    images: int = Field(16, ge=0, description="Images in one request; beyond: 400 `too_many_images`.")
    image_bytes: int = Field(
        10 * 2**20,
        gt=0,
        description="One image as a file, without its base64; beyond: 413 `image_too_large`. All of a request, as "
        "base64, have no more room than a body.",
    )
    image_pixels: int = Field(
        40_000_000,
        gt=0,
        description="Width × height of one image, by its header alone; beyond: 413 `image_too_large`.",
    )
    image_urls: bool = Field(
        False,
        description="Whether an image may be named by an http or https URL of a public address, which the Gateway "
        "then fetches; off: 400 `image_url_refused`.",
    )
    image_seconds: float = Field(
        20,
        gt=0,
        description="Until all of a request's images by URL are there; beyond: 400 `image_url_refused`.",
    )
    embedding_inputs: int = Field(256, gt=0, description="Texts in one embeddings request; beyond: 400.")
    concurrent_requests: int = Field(
        512, gt=0, description="Requests in the Gateway at once; beyond: 429 with Retry-After."
    )
    routers: int = Field(
        1,
        ge=1,
        le=16,
        description="Replicas of the Router, and of the cache. One does thousands of requests a minute; of two, "
        "one may die without a pause. (What each learns from thumbs, shadow runs and pace is its own.)",
    )
    request_seconds: float = Field(600, gt=0, description="A whole answer; beyond: an error event, 504.")
    wake_seconds: float = Field(
        60, gt=0, description="A wait for a variant that is not in memory; beyond: the best that is, or 503."
    )
    header_seconds: int = Field(
        15, ge=1, description="Until a request's headers are there; beyond: 408. As it was at the last `up`."
    )
    body_seconds: float = Field(60, gt=0, description="Until a request's body is there; beyond: 408.")
    send_seconds: float = Field(
        60,
        gt=0,
        description="Until a client takes what is sent to it; beyond, it is cut off and its slot is free.",
    )
    keepalive_seconds: float = Field(10, gt=0, description="A stream that is silent this long carries a comment.")


class ServedVariant(Strict):
    """How one variant runs on this machine. Sizes are in tokens."""

    model: str | None = Field(
        None,
        description="The catalog's entry, where the variant has a name of its own: the same model on two nodes.",
    )
    node: DeviceClass | None = Field(
        None, description="The node that it runs on, one of `nodes`; unset: the head, where `up.sh` runs."
    )
    context: int = Field(4096, gt=0, description="Most tokens of a request, prompt and answer.")
    kv_tokens: int | None = Field(
        None, gt=0, description="KV cells that all its requests share; unset: context × parallel ÷ 2."
    )
    parallel: int = Field(4, ge=1, le=128, description="Requests that it answers at once.")
    max_queue: int = Field(64, ge=0, description="Requests that may wait; beyond: 429.")
    threads: int | None = Field(
        None, ge=1, description="CPU threads that compute one step; unset: chosen from the machine's cores."
    )
    quantization: str | None = Field(
        None, description="Which of the catalog's files; unset: the one that suits the machine's CPU and memory."
    )
    kv_dtype: Literal["f16", "q8_0"] = Field(
        "f16",
        description="What keys and values are kept as: q8_0 halves the KV cache and costs a little accuracy.",
    )
    keep: Literal["always", "auto"] = Field(
        "always", description="`auto`: it is brought in when asked for, and goes when the room is needed."
    )
    idle_ttl_seconds: float | None = Field(
        None, gt=0, description="With `keep: auto`: it goes after this long without use."
    )
    sleep_level: Literal[1, 2] = Field(
        1,
        description="vLLM on a card, `keep: auto`: asleep it keeps its weights in the machine's memory (1), or "
        "reads them from disk again when it wakes (2).",
    )
    gpu_layers: int = Field(0, description="llama.cpp: layers on the GPU; -1 is all.")
    max_adapters: int = Field(
        4,
        ge=1,
        le=64,
        description="Adapters that stay loaded beside the model; beyond, the one unused for longest goes.",
    )
    num_cpus: float = Field(0.1, ge=0, description="CPUs that Ray reserves; a share, since they idle.")
    replicas: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _swapped_ones_are_single(self) -> ServedVariant:
        if self.keep == "auto" and self.replicas > 1:
            raise ValueError(
                "`keep: auto` goes with one replica: memory is given to a variant, not to copies of it"
            )
        return self

    @property
    def pool_tokens(self) -> int:
        """Cells of the KV pool."""
        return self.kv_tokens or max(self.context, self.context * self.parallel // 2)


class Machine(Strict):
    """What the profile's machine has, for its plan."""

    name: str = Field("this machine", description="What a person calls it.")
    accelerator: Literal["cpu", "cuda", "metal"] = "cpu"
    memory_mb: int | None = Field(
        None,
        gt=0,
        description="The memory that models live in, MiB: the card's, else the machine's; unset: asked, and on a "
        "CPU the contexts and files are chosen so that all of it fits.",
    )
    reserve_mb: int = Field(
        0, ge=0, description="Of which this much is left to others: a desktop, the system, the rest of the group."
    )
    max_memory_mb: int | None = Field(
        None, gt=0, description="The most that models may take together, MiB, however much there is."
    )
    max_loaded_models: int | None = Field(
        None, gt=0, description="The most models in memory at once; beyond, one goes when another comes."
    )
    cores: int | None = Field(None, gt=0, description="Physical CPU cores; unset: asked.")
    watts: float | None = Field(
        None,
        gt=0,
        description="What it draws while it answers; unset: measured, where the system counts it (RAPL, NVML).",
    )
    cpu_flags: frozenset[str] | None = Field(
        None, description="What its CPU can do, as the kernel names it; unset: asked."
    )

    @field_serializer("cpu_flags")
    def _in_order(self, flags: frozenset[str] | None) -> list[str] | None:
        # The order of a set changes from process to process; what is written must not.
        return None if flags is None else sorted(flags)


class Node(Strict):
    """A machine that joins the head when it is awake (`scripts/join.sh`)."""

    machine: Machine
    levels: dict[Level, str] = Field(
        default_factory=dict,
        description="Which of its variants answers which level, for requests that come from it or are marked so.",
    )


class Ports(Strict):
    """Where the parts listen: on loopback. `up.sh --listen` opens the endpoint, and nothing else, to a
    network. Redis and PostgreSQL have no port at all, only sockets that other users cannot reach."""

    http: int = Field(8000, gt=0, lt=65536, description="The endpoint.")
    dashboard: int = Field(8265, gt=0, lt=65536, description="Ray's dashboard.")
    gcs: int = Field(6380, gt=0, lt=65536, description="Ray's control store.")
    ray_client: int = Field(10001, gt=0, lt=65536, description="Ray Client.")
    agent: int = Field(52365, gt=0, lt=65536, description="Ray's dashboard agent.")
    metrics: int = Field(8090, gt=0, lt=65536, description="Ray's metrics agent (Prometheus).")
    fallback: int = Field(8510, gt=0, lt=65536, description="Serve's own proxy, for while no Gateway answers.")
    fallback_grpc: int = Field(8511, gt=0, lt=65536, description="The same, for gRPC.")
    cluster: int = Field(
        21000,
        gt=0,
        lt=64535,
        description="The first of 1,000 ports of Ray's own processes, where other machines join. On loopback they "
        "take any.",
    )
    haproxy_stats: int = Field(8404, gt=0, lt=65536, description="HAProxy's statistics.")
    haproxy_metrics: int = Field(9101, gt=0, lt=65536, description="HAProxy's metrics.")

    def shifted(self, by: int) -> Ports:
        """All ports moved by the same number, for a second group on one machine."""
        return Ports.model_validate({name: port + by for name, port in self.model_dump().items()})


class Profile(Strict):
    """One machine's share of the group."""

    name: str
    description: str
    variants: dict[str, ServedVariant] = Field(min_length=1, description="Catalog names → how they run.")
    levels: dict[Level, str] = Field(description="Which variant answers which level of complexity.")
    code: str | None = Field(None, description="The variant for code.")
    vision: str | None = Field(None, description="The variant for images; unset: they are refused.")
    translation: str | None = Field(None, description="The variant for translation.")
    embedder: str = "all-minilm-l6-v2"
    nodes: dict[DeviceClass, Node] = Field(
        default_factory=dict, description="Machines that join when they are awake, by their kind."
    )
    machine: Machine = Field(default_factory=lambda: Machine.model_validate({}))
    limits: Limits = Field(default_factory=lambda: Limits.model_validate({}))
    ledger: LedgerRules = Field(default_factory=lambda: LedgerRules.model_validate({}))
    finetuning: FinetuningRules = Field(default_factory=lambda: FinetuningRules.model_validate({}))
    ports: Ports = Field(default_factory=lambda: Ports.model_validate({}))
    needs_network: bool = Field(False, description="Its weights come from a model hub.")

    @model_validator(mode="after")
    def _roles_are_served(self) -> Profile:
        for role, variant in self.roles.items():
            if variant not in self.variants:
                raise ValueError(f"{role} names {variant!r}, which `variants` does not serve")
        return self

    @model_validator(mode="after")
    def _nodes_have_their_variants(self) -> Profile:
        for name, served in self.variants.items():
            if served.node is not None and served.node not in self.nodes:
                raise ValueError(f"{name} runs on {served.node!r}, which `nodes` does not hold")
        for device, node in self.nodes.items():
            if not node.machine.memory_mb:
                raise ValueError(f"nodes.{device}.machine.memory_mb is not set: the head cannot ask it")
            for level, variant in node.levels.items():
                if variant not in self.variants or self.variants[variant].node != device:
                    raise ValueError(f"nodes.{device}.levels.{level} names {variant!r}, which does not run there")
        for role, variant in self.roles.items():
            if self.variants[variant].node is not None:
                raise ValueError(f"{role} names {variant!r}, whose node may be away: name one of the head's")
        return self

    def on(self, device: DeviceClass | None) -> Profile:
        """What of it concerns one node (None: the head): its machine and the variants that run there."""
        variants = {name: served for name, served in self.variants.items() if served.node == device}
        machine = self.machine if device is None else self.nodes[device].machine
        return self.model_copy(update={"variants": variants, "machine": machine})

    @property
    def roles(self) -> dict[str, str]:
        """Every role that names a variant: levels, code, vision, translation."""
        named = {"code": self.code, "vision": self.vision, "translation": self.translation}
        return {
            **{f"levels.{level}": variant for level, variant in self.levels.items()},
            **{role: variant for role, variant in named.items() if variant},
        }

    def serving(self, catalog: Catalog) -> Catalog:
        """The catalog with the profile's own names in it, and the files that it chose. Raises `ConfigError`."""
        named = {
            name: catalog.variant(served.model)
            for name, served in self.variants.items()
            if served.model and name not in catalog.variants
        }
        known = catalog.model_copy(update={"variants": {**catalog.variants, **named}})
        chosen = {
            name: known.variant(name).quantized(served.quantization)
            for name, served in self.variants.items()
            if served.quantization
        }
        return known.model_copy(update={"variants": {**known.variants, **chosen}})

    def check_against(self, catalog: Catalog) -> None:
        """Raise `ConfigError` where the profile asks for what the catalog does not have."""
        catalog = self.serving(catalog)
        for name, served in self.variants.items():
            spec = catalog.variant(name)
            machine = self.machine if served.node is None else self.nodes[served.node].machine
            # llama.cpp runs anything anywhere, if slowly; vLLM's kernels are there or not.
            if spec.engine == "vllm" and machine.accelerator not in spec.devices:
                raise ConfigError(
                    f"profile {self.name}: {name} runs on {', '.join(sorted(spec.devices))}, and the machine is "
                    f"of kind {machine.accelerator}"
                )
            limit = spec.extended_context or spec.context
            if served.context > limit:
                raise ConfigError(
                    f"profile {self.name}: {name}: a context of {served.context} tokens is beyond the "
                    f"model's {limit}"
                )
        missing = [level for level in ("trivial", "simple", "moderate", "complex") if level not in self.levels]
        if missing:
            raise ConfigError(f"profile {self.name}: levels: no variant for {', '.join(missing)}")
        if self.embedder not in catalog.embedders:
            raise ConfigError(f"profile {self.name}: embedder {self.embedder!r} is not in the catalog")


def profile_names() -> list[str]:
    """The profiles that come with GroupQwen."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str, catalog: Catalog | None = None) -> Profile:
    """A profile by name, or from a path that ends in `.yaml`. Raises `ConfigError`."""
    path = Path(name) if name.endswith(".yaml") else PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"there is no profile {name!r}; there are {', '.join(profile_names())}")
    profile = read(path, Profile)
    profile.check_against(catalog or load_catalog())
    return profile
