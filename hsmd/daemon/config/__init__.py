"""The configuration of a daemon: hsmd.toml as frozen values."""
