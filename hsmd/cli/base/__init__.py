"""What commands share: option handling, the connection to a daemon, output, files and names."""
