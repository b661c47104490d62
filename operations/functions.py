"""SQL functions with the rights of the tables' owner, by which an operator may do two things and no more.

``settle_republish`` puts an event into the outbox again if the service's own tables prove it; those of dead rows
put one back or delete it. So the role ``operator`` cannot make an event up. They are made by
``settle migrate --grant``; where they are missing, commands write with the rights of their own role.
"""

from importlib import import_module

from contracts.services import FOLDERS, SERVICES
from outbox_relay.dead import DISCARD_FUNCTION, RETRY_FUNCTION

REPUBLISH_FUNCTION = "public.settle_republish(uuid, text, text, text, text)"
"""Arguments: message ID, event type, body, traceparent, tracestate."""

# Names are qualified: whoever calls it cannot have them mean something else.
_BEGINS = "LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp"

_REPUBLISH = """
CREATE OR REPLACE FUNCTION
    public.settle_republish(message_id uuid, event_type text, body text, traceparent text, tracestate text)
RETURNS void {begins} AS $function$
DECLARE
    event json := body::json;
    about record;
BEGIN
    SELECT (event ->> 'payment_id')::uuid AS payment_id, event ->> 'account_id' AS account_id,
        (event ->> 'amount_minor')::bigint AS amount_minor, event ->> 'currency' AS currency INTO about;
    IF NOT coalesce(({proof}), false) THEN
        RAISE insufficient_privilege USING
            MESSAGE = format('%s of withdrawal %s is not proved by the tables of {service}',
                event_type, about.payment_id);
    END IF;
    INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
    SELECT message_id, '{aggregate}', {key}, event_type, event, settle_republish.traceparent,
        settle_republish.tracestate
    WHERE NOT EXISTS (SELECT FROM public.outbox AS o WHERE o.id = message_id);
END $function$
"""

# Whatever a service says of an event, it is about this withdrawal, with these contents.
_PROVED = """
EXISTS (
    SELECT FROM public.{table} AS own
    WHERE own.payment_id = about.payment_id AND own.account_id = about.account_id
        AND own.amount_minor = about.amount_minor AND own.currency = about.currency AND ({says})
)
"""

_TAKE = """
    DELETE FROM public.outbox_dead AS d WHERE d.number = wanted RETURNING * INTO dead;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM public.outbox AS o WHERE o.id::text = dead.id AND o.aggregatetype = dead.aggregatetype
        AND o.aggregateid = dead.aggregateid AND o.type = dead.type
        AND convert_to(o.payload::text, 'UTF8') = dead.payload;
"""

_RETRY = """
CREATE OR REPLACE FUNCTION public.settle_outbox_dead_retry(wanted bigint) RETURNS boolean {begins} AS $function$
DECLARE dead record;
BEGIN {take}
    INSERT INTO public.outbox (id, aggregatetype, aggregateid, type, payload, traceparent, tracestate)
    VALUES (dead.id::uuid, dead.aggregatetype, dead.aggregateid, dead.type,
        convert_from(dead.payload, 'UTF8')::json, dead.traceparent, dead.tracestate);
    RETURN true;
END $function$
"""

_DISCARD = """
CREATE OR REPLACE FUNCTION public.settle_outbox_dead_discard(wanted bigint) RETURNS boolean {begins} AS $function$
DECLARE dead record;
BEGIN {take}
    RETURN true;
END $function$
"""


def statements(database: str) -> list[str]:
    """The statements that make a service's functions, and let the operator alone call them.

    Of a service that is no stream processor nothing is republished: requests go to Kafka directly.
    """
    (service,) = (service for service in SERVICES if service.name == database)
    grants = import_module(f"{FOLDERS[database]}.grants")
    # A service that says nothing of how its tables prove an event has none republished.
    proof = _PROVED.format(table=grants.PROOF[0], says=grants.PROOF[1]) if hasattr(grants, "PROOF") else "false"
    key = getattr(grants, "KEY", "about.account_id")
    about = {"service": database, "proof": proof, "key": key, "begins": _BEGINS}
    functions = {
        RETRY_FUNCTION: _RETRY.format(begins=_BEGINS, take=_TAKE),
        DISCARD_FUNCTION: _DISCARD.format(begins=_BEGINS, take=_TAKE),
    }
    if service.reads:
        (emitted,) = service.emits
        functions[REPUBLISH_FUNCTION] = _REPUBLISH.format(**about, aggregate=emitted.aggregate)
    made = list(functions.values())
    for function in functions:
        made += [
            f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC",
            f"GRANT EXECUTE ON FUNCTION {function} TO operator",
        ]
    return made
