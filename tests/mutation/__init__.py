"""Whether tests notice small mistakes: ``python -m tests.mutation`` (docs/decisions/0041)."""
