-- What people, and larger variants, said of answers.
create table feedback (
    id text primary key,
    at timestamptz not null,
    request_id text not null,
    key_id text not null,
    rating text not null check (rating in ('up', 'down', 'regenerate')),
    correction text,
    comment text
);

create index feedback_request on feedback (request_id);

-- Answers of small variants that a larger one was asked for too: how far they agree, 0 to 1.
create table shadows (
    id text primary key,
    at timestamptz not null,
    request_id text not null,
    variant text not null,
    other text not null,
    agreement double precision not null
);
