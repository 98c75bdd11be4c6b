"""The daemon: what runs next to the HSM and is never installed on a front end."""
