"""The ``fedleague`` command, one file a subcommand."""
