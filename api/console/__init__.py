"""The console: pages for people, over what the JSON routes show and do; see docs/console.md."""
