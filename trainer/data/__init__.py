"""Training samples: clip windows, labelled pairs, map shards, synthetic pairs."""
