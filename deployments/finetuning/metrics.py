"""Fine-tuning jobs as Prometheus sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deployments.finetuning.job import STATES, Job
from deployments.metrics import Gauge


class JobGauges:
    """How many there are, and how far those are that run."""

    def __init__(self) -> None:
        self._jobs = Gauge("groupqwen_finetuning_jobs", "Fine-tuning jobs, by state.", ("state",))
        self._of_one = {
            "step": Gauge("groupqwen_finetuning_step", "The step that a job that runs is at.", ("job",)),
            "steps": Gauge("groupqwen_finetuning_steps", "How many it will have.", ("job",)),
            "loss": Gauge("groupqwen_finetuning_loss", "Its loss on what it learns from.", ("job",)),
            "validation_loss": Gauge(
                "groupqwen_finetuning_validation_loss", "Its loss on what was kept from it.", ("job",)
            ),
            "eta_seconds": Gauge(
                "groupqwen_finetuning_eta_seconds", "Until its last step, as it seems now.", ("job",)
            ),
        }
        self._shown: set[str] = set()

    def show(self, jobs: Sequence[Job], counts: Mapping[str, int]) -> None:
        """`jobs`: those under way; `counts`: of all, by state."""
        for state in STATES:
            self._jobs.set(counts.get(state, 0), {"state": state})
        running = {job.id: job for job in jobs if job.state == "running"}
        for name, gauge in self._of_one.items():
            for gone in self._shown - running.keys():
                gauge.forget({"job": gone})
            for job in running.values():
                value = job.progress.get(name)
                if isinstance(value, int | float):
                    gauge.set(value, {"job": job.id})
        self._shown = set(running)
