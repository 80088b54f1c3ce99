"""Weights of the authors' two implementations: their files, and which name there is which array here."""
