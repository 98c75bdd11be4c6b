"""What every long-running process needs from the machine, and what daemon and agent share as servers and SSH peers."""
