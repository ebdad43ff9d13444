-- What the largest variant would have cost for the same tokens, less what was spent; unknown of those before.
alter table queries add column saved_usd double precision;

create index queries_key on queries (key_id, at);

-- What was done that touches others than the one who did it: keys, memory, everyone's cache.
create table audit (
    id text primary key,
    at timestamptz not null,
    key_id text not null,
    act text not null,
    status integer not null
);

create index audit_at on audit (at);
