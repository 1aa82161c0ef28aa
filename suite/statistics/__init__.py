"""What a comparison is computed with: pure functions on arrays and frames; `suite.stats` is their public face."""
