"""Signed releases: made, published, verified, fetched, tried, kept or taken back.

`repository` makes them; `trust`, `desired` and `fetch` bring them here; `states` is the table that
`machine` follows, and `steps` are what it does. What runs engines is given by the caller (`ports`).
"""
