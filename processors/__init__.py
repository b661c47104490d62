"""The services that carry a withdrawal, one folder each, all of the same shape.

``decide`` holds the business rules as pure functions, ``store`` the SQL, ``processor`` the Faust app that
takes a batch, decides and writes it in one transaction. What they share is in ``runtime``.
"""
