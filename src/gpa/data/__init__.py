"""Raw audio and text -> manifests, packs and shards."""
