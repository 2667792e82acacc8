"""Torch definitions of every net, their export, and the torch-free runner of the exports."""
