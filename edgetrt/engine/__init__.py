"""From a network to a verified engine: recipe, fingerprint, cache, build, verify, bench, report."""
