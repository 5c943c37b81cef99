"""A route and a strategy that lie outside nlptransfer, found by the entry points of this package."""
