"""The weights that the paper's authors published, from their files into our trees and back.

`names` says which tensor stands where, `transfer` moves them, `sources` reads and writes the files, and `workdir` makes
of them a finished run that the next phase takes.
"""
