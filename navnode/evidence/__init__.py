"""Evidence of one installation: what it is made of, what tests and measurements came to, and a signature under all.

Research use only. Wording follows IEC 62304 (software of unknown provenance, verification) and ISO 14971 (risk,
control, verification) as an orientation; conformity is not claimed.
"""

__all__: list[str] = []
