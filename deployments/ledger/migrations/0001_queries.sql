-- The query log: a row for each request that reached the Router.
create table queries (
    request_id text primary key,
    at timestamptz not null,
    key_id text not null,
    "user" text,
    session text,
    query text not null,
    requested text not null,
    device text not null,
    variant text,
    trace jsonb not null,
    cache text not null,
    cache_distance double precision,
    prompt_tokens integer not null,
    completion_tokens integer not null,
    cached_tokens integer not null,
    ttft_ms double precision,
    latency_ms double precision not null,
    cost_usd double precision not null,
    finish_reason text,
    status integer not null,
    error text
);

create index queries_at on queries (at);
