"""What the provider's simulation may do in its database, beside what every service may."""

GRANTS = """
GRANT SELECT, INSERT ON charges TO provider;
"""
