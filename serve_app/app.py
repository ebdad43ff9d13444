"""The whole composition on one page: which deployment is given which.

`serve deploy` calls `build` with the `args` of the configuration (see serve_config.yaml). Secrets and
addresses come from the environment of the Ray node, which `scripts/up.sh` sets, never from the file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray.serve import Application

from configs.catalog import Catalog, load_catalog
from configs.code import code_id
from configs.document import ConfigError
from configs.fitting import fit, this_machine
from configs.home import Home, home
from configs.placement import there
from configs.planner import Plan, Row, make_plan
from configs.profile import Profile, load_profile
from configs.routing import DeviceClass, load_routing
from deployments.cache.deployment import SemanticCache
from deployments.cache.seal import seal_of
from deployments.classifier.deployment import Classifier
from deployments.finetuning.deployment import Finetuning
from deployments.ledger.deployment import Ledger
from deployments.llamacpp.deployment import LlamaCppVariant
from deployments.remote.deployment import RemoteVariant
from deployments.residency import RESIDENCY
from deployments.residency.deployment import ResidencyKeeper
from deployments.residency.machine import Footprint
from deployments.router.deployment import Router
from deployments.router.trial import Trial
from deployments.serving import Graph
from deployments.vllm.options import VLLM_START_SECONDS, sleeps, vllm_start
from serve_app.gateway import Gateway
from serve_app.job_keys import JobKeys

DRAIN_SECONDS = 60
"""So long a replica that is replaced may finish what it is answering; a rollout waits for it. Serve's own 20 s are
less than a request may wait for a variant that is being replaced."""


def light_on(device: DeviceClass | None) -> dict[str, Any]:
    """What Ray reserves, on that node, for a deployment that mostly waits."""
    return {"num_cpus": 0.1 if device is None else 0, "resources": there(device)}


class AppArgs(BaseModel):
    """`args` of the application in the Serve configuration."""

    model_config = ConfigDict(extra="forbid")

    profile: str | Profile = Field("cpu", description="A profile of configs/profiles, or one that stands here.")
    catalog: Catalog | None = Field(None, description="What the profile chooses from; unset: configs/models.yaml.")
    variants: tuple[str, ...] = Field((), description="Of a canary: the variants that it tries.")
    node: DeviceClass | None = Field(None, description="Of a node's application: whose variants it holds.")
    build: str = Field(
        "",
        description="Any text; when it changes, Serve replaces all replicas, else those whose arguments change. "
        "Unset: a fingerprint of the code.",
    )


def build(args: dict[str, Any]) -> Application:
    """The graph of one profile. `args` are `AppArgs`. Raises `ConfigError` before anything is started."""
    asked = AppArgs.model_validate(args)
    catalog = asked.catalog or load_catalog()
    profile = asked.profile if isinstance(asked.profile, Profile) else load_profile(asked.profile, catalog)
    profile.check_against(catalog)
    hardware = this_machine(profile.machine.accelerator)
    profile, _ = fit(profile, catalog, hardware)
    catalog = profile.serving(catalog)
    here = home()
    graph = Graph(asked.build or code_id())
    busy = profile.limits.concurrent_requests

    light = {
        "max_ongoing_requests": busy,
        "graceful_shutdown_timeout_s": DRAIN_SECONDS,
        "ray_actor_options": light_on(None),
    }
    # What keeps nothing of its own is replaced by one that answers already.
    stateless = {**light, "max_surge_percent": 100}
    ruled = {**stateless, "user_config": {"routing": load_routing().model_dump(mode="json")}}
    # What user_config holds reaches running replicas without a restart.

    here_only = profile.on(asked.node)
    plan = make_plan(here_only, catalog, hardware.memory_mb)
    if asked.variants:
        # Whatever their profile says, canaries are there all the time: Residency knows nothing of them.
        tried = {row.variant: replace(row, resident=True) for row in plan.rows if row.variant in asked.variants}
        new = {name: variant(graph, row, plan, catalog, here) for name, row in tried.items()}
        return graph.bind(Trial, light, new)
    # The largest first: it takes longest to load, and Serve starts them in this order.
    largest_first = sorted(plan.rows, key=lambda row: -row.total_mb)
    variants = {row.variant: variant(graph, row, plan, catalog, here) for row in largest_first}
    keeper = residency(graph, plan, catalog, variants) if plan.swaps else None
    if asked.node is not None:
        on_it = {**light, "ray_actor_options": light_on(asked.node)}
        return graph.bind(Trial, on_it, variants | ({RESIDENCY: keeper} if keeper else {}))
    redis_url = required("GROUPQWEN_REDIS_URL")
    of_cache = cache_arguments(profile, catalog, here)
    seal = seal_of(here.cache_key).name
    # (A file's path stays the same when its source changes.)
    made_with = [*of_cache, catalog.embedders[profile.embedder], seal]
    # Who may be asked for an opinion: no cache waits for one that is brought in first.
    # Nor are questions and kept answers anybody's business but this group's.
    at_hand = [
        row.variant
        for row in reversed(largest_first)
        if row.resident and catalog.variant(row.variant).engine != "remote"
    ]
    opinions = {name: variants[name] for name in at_hand}
    several = {**ruled, "num_replicas": profile.limits.routers}
    cache = graph.versioned(graph.bind(SemanticCache, several, *of_cache, opinions, seal), made_with)
    classifier = graph.bind(Classifier, ruled)
    days = profile.ledger.retention_days
    database_url = required("GROUPQWEN_DATABASE_URL")
    ledger = graph.bind(Ledger, light, database_url, str(here.journal), days)
    # (A machine lets go of files that models are read from, under pressure; what a card holds is taken.)
    room_mb = plan.memory_mb - (plan.resident_mb if profile.machine.accelerator == "cuda" else 0)
    finetuning = graph.bind(Finetuning, light, profile, catalog, database_url, keeper, room_mb, JobKeys())
    router = graph.bind(Router, several, profile, catalog, variants, redis_url, seal, cache, classifier)
    # Room for health checks while all places are taken.
    ingress = {**stateless, "max_ongoing_requests": busy + 64}
    return graph.bind(Gateway, ingress, profile, catalog, router, cache, ledger, keeper, redis_url, finetuning)


def variant(graph: Graph, row: Row, plan: Plan, catalog: Catalog, here: Home) -> Application:
    """One variant's deployment, by its engine."""
    name, profile = row.variant, plan.profile
    spec, served = catalog.variant(name), profile.variants[name]
    if row.resident:
        served = served.model_copy(update={"keep": "always"})
    options: dict[str, Any] = {
        "name": name,
        "num_replicas": served.replicas,
        # A little more than the engine takes, so that it is the engine that refuses, with a Retry-After.
        "max_ongoing_requests": served.parallel + served.max_queue + 16,
        "health_check_period_s": 5,
        "graceful_shutdown_timeout_s": DRAIN_SECONDS,
        # Where there is room for both, the old one answers until the new one does, and stays if that fails. Who is
        # swapped is brought in by Residency, which knows of one at a time.
        "max_surge_percent": 100 if row.resident and plan.has_room_twice else 0,
    }
    wake_seconds = profile.limits.wake_seconds
    # Who is swapped is replaced when there is other room for it: what is in memory then was let in by the old
    # rules.
    room = None if row.resident else (plan.swap_mb, plan.max_awake)
    # Every node has a home of its own: the paths of weights begin there.
    if spec.engine == "vllm":
        start = vllm_start(row, plan, spec, served, here.model_folder(name).relative_to(here.root))
        node = bind_vllm(start, spec, served, wake_seconds, options)
        return graph.versioned(node, [start, spec, served, wake_seconds, room])
    options["ray_actor_options"] = plan.reserves(row)
    if spec.engine == "remote":
        return graph.versioned(graph.bind(RemoteVariant, options, name, spec, served), [name, spec, served])
    file = str(here.model_file(name, spec.source).relative_to(here.root))
    arguments = name, file, spec, served, wake_seconds
    return graph.versioned(graph.bind(LlamaCppVariant, options, *arguments), [*arguments, room])


def bind_vllm(*arguments: Any) -> Application:
    """As `deployments.vllm.deployment` does it, which only profiles with such variants can import."""
    try:
        from deployments.vllm.deployment import bind_vllm
    except ImportError as error:
        raise ConfigError(f"the profile has variants on vLLM, which cannot be imported: {error}") from error
    return bind_vllm(*arguments)


def residency(graph: Graph, plan: Plan, catalog: Catalog, variants: Mapping[str, Application]) -> Application:
    """The keeper of what is left beside the variants that are kept always."""
    swapped = [row for row in plan.rows if not row.resident]
    footprints = {row.variant: footprint(row, plan, catalog) for row in swapped}
    handles = {row.variant: variants[row.variant] for row in swapped}
    device = next(plan.profile.variants[row.variant].node for row in swapped)
    options = {"name": RESIDENCY, "max_ongoing_requests": 1024, "ray_actor_options": light_on(device)}
    accelerator, spared = plan.profile.machine.accelerator, spared_for_jobs(plan)
    arguments = plan.swap_mb, plan.max_awake, footprints, handles, accelerator, spared
    return graph.bind(ResidencyKeeper, options, *arguments)


def spared_for_jobs(plan: Plan) -> tuple[str, ...]:
    """Who does not leave for a training job: one that answers meanwhile, where none is kept always."""
    if any(row.resident for row in plan.rows):
        return ()
    first = plan.profile.levels.get("trivial")
    smallest = min(plan.rows, key=lambda row: row.total_mb).variant
    return (first if any(row.variant == first for row in plan.rows) and first else smallest,)


def footprint(row: Row, plan: Plan, catalog: Catalog) -> Footprint:
    """A variant's line of the plan, as Residency weighs it."""
    served, spec = plan.profile.variants[row.variant], catalog.variant(row.variant)
    # A guess to start with, from which Residency learns: weights come at about a gigabyte a second.
    seconds = max(0.5, row.weights_mb / 1000)
    asleep_mb = 0
    if spec.engine == "vllm":
        if sleeps(plan, row, spec):
            # What sleep does not free: the CUDA context and the graphs.
            asleep_mb = row.overhead_mb
        else:
            seconds += VLLM_START_SECONDS
    return Footprint(row.total_mb, asleep_mb, load_seconds=seconds, idle_ttl=served.idle_ttl_seconds)


def cache_arguments(profile: Profile, catalog: Catalog, here: Home) -> tuple[str, str, str, int]:
    """Redis, and the embedder's files."""
    spec = catalog.embedders[profile.embedder]
    return (
        required("GROUPQWEN_REDIS_URL"),
        str(here.embedder_file(profile.embedder)),
        str(here.model_file(profile.embedder, spec.tokenizer)),
        spec.max_tokens,
    )


def required(variable: str) -> str:
    """An environment variable that must be set on the node."""
    value = os.environ.get(variable)
    if not value:
        raise ConfigError(f"{variable} is not set; scripts/up.sh sets it, or point it at your own server")
    return value
