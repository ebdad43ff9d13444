-- The query log by day (UTC), so that old days go as a whole; with what answers took in electricity, how sure their
-- variant was (P(right), 0 to 1), and how many handed over to a larger one before it.
alter table queries rename to queries_whole;
alter table queries_whole rename constraint queries_pkey to queries_whole_pkey;
alter index queries_at rename to queries_whole_at;
alter index queries_key rename to queries_whole_key;

create table queries (
    like queries_whole including defaults,
    energy_wh double precision,
    electricity_usd double precision,
    confidence double precision,
    escalations integer,
    primary key (request_id, at)
) partition by range (at);

create index queries_at on queries (at);
create index queries_key on queries (key_id, at);

do $$
declare
    day date;
begin
    for day in select distinct (at at time zone 'UTC')::date from queries_whole loop
        execute format(
            'create table %I partition of queries for values from (%L) to (%L)',
            'queries_' || to_char(day, 'YYYYMMDD'),
            day::timestamp at time zone 'UTC',
            (day + 1)::timestamp at time zone 'UTC');
    end loop;
end $$;

insert into queries select *, null, null, null, null from queries_whole;
drop table queries_whole;
