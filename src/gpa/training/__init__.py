"""Shards and packs -> trained nets. Needs torch."""
