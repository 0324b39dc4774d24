"""From volumes, masks and reports to batches: manifest, preparation, shards, crops."""
