-- The roles of a service's database, the database, and who may connect to it. What a role may do inside is
-- `settle migrate --grant`.
--
-- SETTLE_DATABASE names it: account, payment, notification, saga, api or provider. Runs by itself when the server's volume
-- is new. Running it again is harmless, and is how a password is changed:
--   docker compose exec postgres-saga psql --username=postgres --file=/docker-entrypoint-initdb.d/roles.sql
-- Where several databases share a server, it runs once for each.
\set ON_ERROR_STOP on

\getenv database SETTLE_DATABASE
\getenv service_password SETTLE_SERVICE_PASSWORD
\getenv owner_password SETTLE_OWNER_PASSWORD
\getenv relay_password SETTLE_RELAY_PASSWORD
\getenv viewer_password SETTLE_VIEWER_PASSWORD
\getenv operator_password SETTLE_OPERATOR_PASSWORD
\getenv treasurer_password SETTLE_TREASURER_PASSWORD
\set relay relay_:database

-- The service's role has the name of its database. owner migrates the schema; nobody else may change it. viewer,
-- operator and treasurer are the people's: the `settle` commands that look, that act, and that open accounts.
SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY[:'database', 'owner', 'viewer', 'operator', 'treasurer']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
ALTER ROLE :"database" PASSWORD :'service_password';
ALTER ROLE owner PASSWORD :'owner_password';
ALTER ROLE viewer PASSWORD :'viewer_password';
ALTER ROLE operator PASSWORD :'operator_password';
ALTER ROLE treasurer PASSWORD :'treasurer_password';

SELECT format('CREATE DATABASE %I OWNER owner', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

REVOKE ALL ON DATABASE postgres, template1, :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"database", viewer, operator, treasurer;

-- The simulated bank has no outbox. Each other database has a relay role of its own, which connects to no other one.
SELECT :'database' <> 'provider' AS relayed \gset
\if :relayed
    SELECT format('CREATE ROLE %I LOGIN', :'relay') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = :'relay')
    \gexec
    ALTER ROLE :"relay" REPLICATION PASSWORD :'relay_password';
    GRANT CONNECT ON DATABASE :"database" TO :"relay";
\endif
-- The one for all databases, of before.
SELECT 'ALTER ROLE relay NOLOGIN NOREPLICATION' WHERE EXISTS (SELECT FROM pg_roles WHERE rolname = 'relay')
\gexec

-- Before PostgreSQL 15 everybody may create tables there.
\connect :database
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT ALL ON SCHEMA public TO owner;
