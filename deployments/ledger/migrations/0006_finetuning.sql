-- Fine-tuning jobs, one row each. What a job does is in its folder; a row is what is known of it.
create table finetuning_jobs (
    id text primary key,
    key_id text not null,
    created timestamptz not null,
    queued timestamptz not null,
    started timestamptz,
    finished timestamptz,
    state text not null check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    spec jsonb not null,
    asked jsonb not null,
    -- Times that a process was started for it, and of these the last in a row that died without a new checkpoint.
    attempt integer not null default 0,
    deaths integer not null default 0,
    -- The last event before the present attempt; the last that is in finetuning_events.
    attempt_seq integer not null default -1,
    last_seq integer not null default -1,
    cancel timestamptz,
    stage text,
    progress jsonb not null default '{}',
    error text,
    note text
);

create index finetuning_jobs_created on finetuning_jobs (created desc, id);
create index finetuning_jobs_under_way on finetuning_jobs (queued) where state in ('queued', 'running');

-- Copied from each job's events.jsonl, each line once.
create table finetuning_events (
    job text not null references finetuning_jobs (id) on delete cascade,
    seq integer not null,
    at timestamptz not null,
    kind text not null,
    data jsonb not null,
    primary key (job, seq)
);

-- Files that were uploaded to learn from. Their bytes are in training/files of the home.
create table finetuning_files (
    id text primary key,
    key_id text not null,
    created timestamptz not null,
    filename text not null,
    bytes bigint not null,
    lines integer not null,
    sha256 text not null
);

create index finetuning_files_key on finetuning_files (key_id, created desc);
