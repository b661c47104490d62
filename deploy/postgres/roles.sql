-- The roles of a service's database, the database, and who may connect to it. What a role may do inside is
-- `settle migrate --grant`.
--
-- SETTLE_DATABASE names it: account, payment, notification, saga or provider. Runs by itself when the server's volume
-- is new. Running it again is harmless, and is how a password is changed:
--   docker compose exec postgres-saga psql --username=postgres --file=/docker-entrypoint-initdb.d/roles.sql
-- Where several databases share a server, it runs once for each.
\set ON_ERROR_STOP on

\getenv database SETTLE_DATABASE
\getenv service_password SETTLE_SERVICE_PASSWORD
\getenv owner_password SETTLE_OWNER_PASSWORD
\getenv relay_password SETTLE_RELAY_PASSWORD
\getenv operator_password SETTLE_OPERATOR_PASSWORD

-- The service's role has the name of its database. owner migrates the schema; nobody else may change it. relay reads
-- the outbox through a replication slot. operator is the people's: the `settle` commands.
SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY[:'database', 'owner', 'relay', 'operator']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
ALTER ROLE :"database" PASSWORD :'service_password';
ALTER ROLE owner PASSWORD :'owner_password';
ALTER ROLE operator PASSWORD :'operator_password';

SELECT format('CREATE DATABASE %I OWNER owner', :'database')
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = :'database')
\gexec

REVOKE ALL ON DATABASE postgres, template1, :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO :"database", operator;

-- The simulated bank has no outbox.
SELECT :'database' <> 'provider' AS relayed \gset
\if :relayed
    ALTER ROLE relay REPLICATION PASSWORD :'relay_password';
    GRANT CONNECT ON DATABASE :"database" TO relay;
\endif
