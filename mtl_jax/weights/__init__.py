"""The weights of the authors' two implementations: read, matched with our trees, and written again under their names."""
