"""Conditions on a text, one file each: signature, `holds`, automaton and random instances."""
