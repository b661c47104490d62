"""What the fraud service may do in its database, beside what every service may."""

GRANTS = """
GRANT SELECT, INSERT ON checks TO fraud;
"""
