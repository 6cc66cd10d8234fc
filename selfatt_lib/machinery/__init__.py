"""What keeps the book alive and fast, and need not be read to understand it."""
