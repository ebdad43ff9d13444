-- Answers that somebody rated or corrected, with the conversation that led to them: what a model can be trained on.
create table examples (
    id text primary key,
    at timestamptz not null,
    request_id text not null,
    key_id text not null,
    variant text,
    rating text not null check (rating in ('up', 'down')),
    messages jsonb not null,
    answer text not null,
    correction text
);

create index examples_request on examples (request_id, at);
create index examples_at on examples (at);
