-- Which roles and databases are there, and who may connect to which? What a role may do inside is `settle migrate --grant`.
--
-- Runs by itself when the server's volume is new. Running it again is harmless, and is how a password is changed:
--   docker compose exec postgres psql --username=postgres --file=/docker-entrypoint-initdb.d/roles.sql
\set ON_ERROR_STOP on

\getenv owner_password SETTLE_OWNER_PASSWORD
\getenv account_password SETTLE_ACCOUNT_PASSWORD
\getenv payment_password SETTLE_PAYMENT_PASSWORD
\getenv notification_password SETTLE_NOTIFICATION_PASSWORD
\getenv saga_password SETTLE_SAGA_PASSWORD
\getenv provider_password SETTLE_PROVIDER_PASSWORD
\getenv relay_password SETTLE_RELAY_PASSWORD
\getenv operator_password SETTLE_OPERATOR_PASSWORD

-- owner migrates the schemas; nobody else may change one. relay reads outboxes through replication slots.
-- operator is the people's: the `settle` commands.
SELECT format('CREATE ROLE %I LOGIN', role)
FROM unnest(ARRAY['owner', 'account', 'payment', 'notification', 'saga', 'provider', 'relay', 'operator']) AS role
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role)
\gexec
ALTER ROLE owner PASSWORD :'owner_password';
ALTER ROLE account PASSWORD :'account_password';
ALTER ROLE payment PASSWORD :'payment_password';
ALTER ROLE notification PASSWORD :'notification_password';
ALTER ROLE saga PASSWORD :'saga_password';
ALTER ROLE provider PASSWORD :'provider_password';
ALTER ROLE relay REPLICATION PASSWORD :'relay_password';
ALTER ROLE operator PASSWORD :'operator_password';

SELECT format('CREATE DATABASE %I OWNER owner', name)
FROM unnest(ARRAY['account', 'payment', 'notification', 'saga', 'provider']) AS name
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name)
\gexec

REVOKE ALL ON DATABASE postgres, template1, account, payment, notification, saga, provider FROM PUBLIC;
GRANT CONNECT ON DATABASE account TO account, relay, operator;
GRANT CONNECT ON DATABASE payment TO payment, relay, operator;
GRANT CONNECT ON DATABASE notification TO notification, relay, operator;
GRANT CONNECT ON DATABASE saga TO saga, relay, operator;
GRANT CONNECT ON DATABASE provider TO provider, operator;
