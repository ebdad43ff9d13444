"""What has to be so before a job is taken on, and what is made of it then."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from configs.catalog import Catalog
from configs.home import Home
from configs.machine import cores
from configs.profile import Profile
from configs.training import load_recipes, write_spec
from deployments.contract import ChatError, invalid, not_allowed, or_gone, queue_full
from deployments.finetuning import lines
from deployments.finetuning.asked import (
    Start,
    base_of,
    name_taken,
    new_id,
    no_such_parent,
    read_made,
    recipe_of,
    spec_of,
)
from deployments.finetuning.job import Job, file_path
from deployments.finetuning.memory import check_size
from deployments.finetuning.states import told_when_full, unknown_file
from deployments.finetuning.store import AWAY, FinetuningStore


class Intake:
    """Of one machine. `folder`: where a job's files are; `room_mb`: the most of the machine's memory that a job
    can have, None where Residency lends it."""

    def __init__(
        self,
        profile: Profile,
        catalog: Catalog,
        home: Home,
        store: FinetuningStore,
        folder: Callable[[str], Path],
        room_mb: int | None,
    ) -> None:
        self._profile, self._catalog, self._home = profile, catalog, home
        self._rules = profile.finetuning
        self._store, self._folder, self._room_mb = store, folder, room_mb

    async def take_on(
        self, start: Start, key_id: str, asked: Mapping[str, Any], variants: tuple[str, ...] | None, *, owner: bool
    ) -> Job:
        """A new job, in the queue. `asked`: what is shown of it again; `variants`: those that its key may use;
        `owner`: whether it may use this machine's datasets. Raises `ChatError`."""
        recipe = recipe_of(start.recipe, load_recipes(), start.overrides)
        base = base_of(start.base, self._catalog, self._home)
        if variants is not None and base[0] not in variants:
            raise not_allowed(f"This key may not use {base[0]!r}.")
        here = [name for name, served in self._profile.variants.items() if served.node is None]
        if base[0] not in here:
            raise invalid(
                f"{base[0]!r} is not served by this machine; it serves {', '.join(here)}.", param="model"
            )
        check_size(self._rules, base[1], recipe, start.workers, self._room_mb)
        if (start.dataset is None) == (start.training_file is None):
            raise invalid("Say either `dataset` or `training_file`.", param="training_file")
        with or_gone("finetuning", AWAY):
            under_way = await self._store.under_way()
            if sum(job.state == "queued" for job in under_way) >= self._rules.most_queued:
                raise queue_full(60.0)
            if not owner:
                await self.check_own(start.name, base[2], key_id, under_way)
            job_id = new_id()
            folder = self._folder(job_id)
            dataset = self._dataset(start, folder, owner=owner)
            spec = spec_of(job_id, start, recipe, base, self._home, dataset, gpu=self._gpu, threads=self._threads)
            now = time.time()
            job = Job(job_id, key_id, now, now, "queued", spec, dict(asked))
            try:
                with told_when_full():
                    await asyncio.to_thread(write_spec, folder, spec)
                    await self._with_files(start, key_id, dataset)
                await self._store.add(job)
            except BaseException:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
                raise
        return job

    async def check_own(self, name: str, parents: tuple[str, ...], key_id: str, under_way: Sequence[Job]) -> None:
        """A key goes on from its own adapters only, and takes the name of no other. Raises `ChatError`."""
        for parent in parents:
            if not await self._made_by(key_id, parent):
                raise no_such_parent(parent)
        taken = (self._home.adapters / name).exists() and not await self._made_by(key_id, name)
        if taken or any(job.spec.name == name and job.key_id != key_id for job in under_way):
            raise name_taken(name)

    async def _made_by(self, key_id: str, name: str) -> bool:
        """Whether the adapter of this name was made by a job of this key's."""
        made = await asyncio.to_thread(read_made, self._home, name)
        return made is not None and made.job is not None and await self._store.job(made.job, key_id) is not None

    @property
    def _gpu(self) -> bool:
        return self._profile.machine.accelerator == "cuda"

    @property
    def _threads(self) -> int:
        return self._rules.threads or max(1, cores() // 2)

    def _dataset(self, start: Start, folder: Path, *, owner: bool) -> Path:
        """The folder that it learns from: one of this machine, or one of its own. Raises `ChatError`."""
        if start.dataset is None:
            return folder / "dataset"
        if not owner:
            raise not_allowed("Datasets of this machine are for keys with the scope 'admin'; upload a file.")
        there = self._home.training / "datasets" / start.dataset
        if not (there / "train.jsonl").is_file():
            raise ChatError(
                f"There is no dataset {start.dataset!r} here.",
                status=404,
                kind="not_found_error",
                code="no_such_dataset",
                param="dataset",
            )
        return there

    async def _with_files(self, start: Start, key_id: str, dataset: Path) -> None:
        """Copy its files to where it learns from them: they can be deleted while it waits."""
        for field, part in (("training_file", "train"), ("validation_file", "validation")):
            file_id = getattr(start, field)
            if file_id is None:
                continue
            if await self._store.file(file_id, key_id) is None:
                raise unknown_file(file_id, field)
            if start.dataset is not None:
                raise invalid("A dataset has its own validation set.", param=field)
            try:
                await asyncio.to_thread(lines.copy, file_path(self._home, file_id), dataset / f"{part}.jsonl")
            except FileNotFoundError:
                raise unknown_file(file_id, field) from None
