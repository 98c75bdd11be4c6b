"""Control requests: the dispatcher, and one module of handlers for each subject."""
