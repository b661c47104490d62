"""What could not be handled, and what became of it: listed, sent back once the cause is mended, or given up."""
