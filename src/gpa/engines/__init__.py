"""Backends that continue prompts: token ids in, token ids out."""
