"""From a network to a verified engine: recipe, fingerprint, cache, build flow, verify, bench, report."""
