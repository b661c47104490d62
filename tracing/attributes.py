"""Attribute names of the OpenTelemetry semantic conventions that Settle's spans carry.

As of version 1.44: messaging (in development: what is renamed later is renamed here), database and HTTP (stable).
Source: https://opentelemetry.io/docs/specs/semconv/messaging/kafka/, …/db/postgresql/ and …/http/http-spans/
"""

MESSAGING_SYSTEM = "messaging.system"
MESSAGING_OPERATION_TYPE = "messaging.operation.type"
MESSAGING_OPERATION_NAME = "messaging.operation.name"
MESSAGING_CLIENT_ID = "messaging.client.id"
MESSAGING_DESTINATION_NAME = "messaging.destination.name"
MESSAGING_DESTINATION_PARTITION_ID = "messaging.destination.partition.id"
MESSAGING_CONSUMER_GROUP_NAME = "messaging.consumer.group.name"
MESSAGING_MESSAGE_ID = "messaging.message.id"
MESSAGING_BATCH_MESSAGE_COUNT = "messaging.batch.message_count"
MESSAGING_KAFKA_OFFSET = "messaging.kafka.offset"
MESSAGING_KAFKA_MESSAGE_KEY = "messaging.kafka.message.key"
DB_SYSTEM_NAME = "db.system.name"
DB_NAMESPACE = "db.namespace"
DB_OPERATION_NAME = "db.operation.name"
DB_RESPONSE_STATUS_CODE = "db.response.status_code"
HTTP_REQUEST_METHOD = "http.request.method"
HTTP_RESPONSE_STATUS_CODE = "http.response.status_code"
URL_FULL = "url.full"
HTTP_ROUTE = "http.route"
URL_PATH = "url.path"
URL_SCHEME = "url.scheme"
URL_TEMPLATE = "url.template"
NETWORK_PROTOCOL_NAME = "network.protocol.name"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
ERROR_TYPE = "error.type"

# Settle's own
PAYMENT_ID = "settle.payment_id"
EVENT_TYPE = "settle.event_type"
REASON = "settle.reason"
ATTEMPT = "settle.attempt"
MESSAGES = "settle.messages"

# What may happen in a span, by name
RETRY = "retry"
NOT_TRIED = "not tried"
DEAD_LETTER = "dead letter"


def brokers(bootstrap: str) -> dict[str, str | int]:
    """The attributes of a broker's address; none where several brokers are named.

    Args:
        bootstrap: ``host:port``, comma-separated.
    """
    host, _, port = bootstrap.strip().rpartition(":")
    if "," in bootstrap or not host or not port.isdigit():
        return {}
    return {SERVER_ADDRESS: host, SERVER_PORT: int(port)}
