"""HTTP for every noun: server, middleware, error handlers, field types, pagination, rate limit."""
