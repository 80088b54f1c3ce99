"""The weights of the authors' two implementations: read, matched with our trees, written again under their names."""
