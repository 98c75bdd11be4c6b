"""The front's side of a token: pool, queue, circuit breaker, worker channels and logins."""
