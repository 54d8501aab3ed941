"""The commands, one kind of them a file; `myosotis.cli` puts them together."""
