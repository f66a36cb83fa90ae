"""What the pool tells a person: one exception for all that he can do something about."""


class PoolError(Exception):
    """Says what failed, why, and what to do."""
