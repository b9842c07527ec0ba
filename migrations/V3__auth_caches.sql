-- Which servers keep validated keys in memory, and up to which change of the keys each of them has emptied that
-- memory. Whoever changes what keys may do draws the next number, and waits until every server has caught up.
CREATE SEQUENCE IF NOT EXISTS api_key_changes;
-- A sequence that nobody has drawn from shows the same value as after the first draw.
SELECT nextval('api_key_changes');

CREATE TABLE IF NOT EXISTS auth_caches (
    server uuid PRIMARY KEY,
    seen bigint NOT NULL,
    since timestamptz NOT NULL DEFAULT now()
);
