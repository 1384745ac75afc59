"""What guides the drawing of texts and never changes their distribution."""
