"""The services that carry a withdrawal, one folder each, all of the same shape.

``decide`` holds the business rules as pure functions, ``store`` the SQL, ``processor`` the Faust app, which
takes a batch, decides and writes it in one transaction. Shared code is in ``runtime``.
"""
