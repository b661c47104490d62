"""Where are the approaches run, measured and hurt? Here, so that their pages need not know of it."""
