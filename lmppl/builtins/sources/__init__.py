"""Where a reward can come from, one file each: signature, range, loader and instances."""
