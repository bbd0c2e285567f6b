"""One synthetic source an app, written as the raw files users have."""
