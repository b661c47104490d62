"""A service as the README says to add one; copied into a copy of the tree by test_add_a_service.py."""
