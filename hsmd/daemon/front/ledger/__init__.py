"""The front's side of the ledger: reading events for clients, pushing them to followers, and what appends them."""
