"""The launcher: starts, watches and replaces the other processes; touches neither network nor token."""
