"""What a choice can be drawn from, one file each: signature, what binds it and instances."""
