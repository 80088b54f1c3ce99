"""Readers of files that nobody vouches for: pickles, and tar and zip archives.

What they promise of any file, whole, damaged or hostile:

- nothing in it is run, and nothing is imported because it says so;
- nothing is extracted: members of archives are read into memory, and links are not followed;
- no more is held in memory than the file has and the caller allows, whatever it announces;
- a file that cannot be read ends in a ValueError of a single line that names it.

Nothing here imports the rest of the package.
"""
