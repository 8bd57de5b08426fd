"""The tests; a package so that they can share the modules that begin with an underscore."""
