-- What a shadow run took, in tokens and US dollars; unknown of those before.
alter table shadows
    add column prompt_tokens integer,
    add column completion_tokens integer,
    add column cost_usd double precision;
