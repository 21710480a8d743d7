"""Latency of messages at a fixed rate (open loop), and what a relay adds to the direct path."""


def command(field, runs: list[dict]) -> list[dict]:
    raise ValueError("needs ringpost-bench")
