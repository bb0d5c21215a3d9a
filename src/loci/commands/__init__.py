"""The commands of `loci` that come in groups: a module a group."""
