"""One file per kind of rewrite; `edgetrt.model.rewrite` decides which are worth it."""
