"""What commands share: their frame, the connection to a daemon, output, files and names."""
