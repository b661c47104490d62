"""The audit: proof that no money is lost or doubled, from every service's database, each read by itself."""
