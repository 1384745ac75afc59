"""What each built-in of the language accepts and gives, one file per kind; no tensors."""
