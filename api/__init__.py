"""The front door: withdrawals over HTTP, for services in any language and for people."""
