"""The weights of the authors' two implementations: read, matched with our trees, written back.

`authors_files` reads and writes their files, `correspondence` says which of their tensors is which
leaf here, `transfer` takes one to the other, `authors_runs` makes a finished run of it.
"""
