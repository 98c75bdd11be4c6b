"""What every long-running process of ours needs from the machine, and the SSH profile of both ends."""
