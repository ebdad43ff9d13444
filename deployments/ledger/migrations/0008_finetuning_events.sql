-- Checkpoints among a long job's events, and the losses that came before each, are found without reading the others.
create index finetuning_events_kind on finetuning_events (job, kind, seq);
