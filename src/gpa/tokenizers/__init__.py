"""Sound -> codes and back: framing, padding and streaming around the nets. Numpy only."""
