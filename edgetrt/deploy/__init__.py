"""A person's whole task: an engine deployed, measured, tried, built for a release.

Composition, like `app`: it names concrete backends and sources, and hands them to the flows of `engine`.
"""
