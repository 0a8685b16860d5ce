"""The site in a real browser: what only a person in front of a page can meet."""
