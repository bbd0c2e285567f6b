"""Offline commands that turn raw medical studies into sharded TFRecords of patches."""
