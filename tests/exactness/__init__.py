"""Every method against exact answers, at stated false-alarm rates."""
