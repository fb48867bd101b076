"""The steps, by subject: each asks the server one question."""
