"""
The packed layout: small files of a put side by side in a few large objects, and an index that says where.

``<folder>.asyncstore/packs/`` holds packs, and for each put one index, which is written last: without it none of the
put's packed files is there. An index names the packs it speaks of; names, packs and indices never change, so a put
replaces a file by a newer index, and the one with the latest stamp counts. A file that is an object of its own always
counts before a packed one of the same name: a put in packed layout leaves such files objects of their own.

Packs are not pinned to their ETags: their names are never used twice, and each file is checked by its SHA-256.
"""
