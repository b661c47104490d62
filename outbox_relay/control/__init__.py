"""Control of a running relay: what people ask of a source, kept in the source's own database."""
