-- One withdrawal as one row-at-a-time transaction on one database: balance, withdrawal, outbox row. For pgbench.
\set account random(0, 999)
BEGIN;
UPDATE accounts SET balance = balance - 100, updated_at = now() WHERE id = :account AND balance >= 100;
INSERT INTO withdrawals (payment_id, account_id, amount, status) VALUES (gen_random_uuid(), :account, 100, 'done');
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
    VALUES (gen_random_uuid(), 'account', :account::text, 'MoneyDeducted', '{"amount_minor": 100}');
COMMIT;
